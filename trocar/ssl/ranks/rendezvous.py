"""How ranks on several machines find each other: a port that the kernel chose, published in a file all of them see.

A port worked out from the job id can be taken by another job of the same machine. And torch's own file store needs
`flock` between machines, which some network file systems refuse and others only pretend to have.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

from torch.distributed import Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from trocar.core.files import write_json_atomic
from trocar.core.messages import Say
from trocar.core.progress import SILENT
from trocar.errors import TrocarError

SCHEME = "port://"
TIMEOUT_S = 900.0
"""For all ranks to arrive: a machine may still be copying shards, or loading Python from a busy file system."""

_ASK_S, _LEAVE_S = 0.2, 10.0
_FAILED = "failed"


@dataclass(frozen=True)
class Meeting:
    """Where `size` ranks have met: what they can tell each other without a collective, a device or its time limit.

    `check` is called again and again while this one waits, and may raise what makes that of no use.
    """

    store: Store
    rank: int
    size: int
    check: Callable[[], None] = lambda: None

    def gather(self, name: str, word: str, limit_s: float = TIMEOUT_S) -> list[str]:
        """What every rank says under `name`, by rank. Each name serves once. Raises TrocarError as `wait` does."""
        self.store.set(f"{name}/{self.rank}", word)
        self.wait(name, limit_s)
        return [self.store.get(f"{name}/{rank}").decode() for rank in range(self.size)]

    def wait(self, name: str, limit_s: float) -> None:
        """Wait until all ranks are here, for `limit_s` seconds. Each name serves once.

        Raises TrocarError where some don't come, or where rank 0, which keeps the store, has ended.
        """
        here, deadline = f"{name}/here", time.monotonic() + limit_s
        try:
            if self.store.add(here, 1) == self.size:
                self.store.set(f"{name}/all", "")
            # Asked again and again: a wait inside the store lets no signal through.
            while not self.store.check([f"{name}/all"]):
                if time.monotonic() > deadline:
                    came = self.store.add(here, 0)
                    raise TrocarError(f"only {came} of {self.size} ranks came to '{name}' within {limit_s:.0f} s")
                self.check()
                self.refuse_failed()
                time.sleep(_ASK_S)
        except RuntimeError as error:
            raise self._gone(error, f"waited for all at '{name}'") from None

    def _gone(self, error: RuntimeError, meanwhile: str) -> TrocarError:
        return TrocarError(
            f"rank 0 has ended while this one {meanwhile} ({str(error).splitlines()[0]}); its own message says why"
        )

    def fail(self) -> None:
        """Say that this rank ends with an error, which is of no use to wait for."""
        with suppress(RuntimeError):
            self.store.set(_FAILED, str(self.rank))

    def refuse_failed(self) -> None:
        """Raises TrocarError where another rank has said that it fails, or where rank 0 has ended."""
        try:
            who = self.store.get(_FAILED).decode() if self.store.check([_FAILED]) else None
        except RuntimeError as error:
            raise self._gone(error, "worked") from None
        if who is not None:
            raise TrocarError(f"rank {who} of {self.size} has ended with an error; its own message says why")

    def leave(self) -> None:
        """Say that this rank asks nothing more. Rank 0 waits a little for the others: the store ends with it, and a
        rank that is only late would take that for an error.
        """
        with suppress(RuntimeError):
            gone, deadline = self.store.add("gone", 1), time.monotonic() + _LEAVE_S
            while self.rank == 0 and gone < self.size and time.monotonic() < deadline:
                time.sleep(_ASK_S)
                gone = self.store.add("gone", 0)


def meet(
    where: str, rank: int, size: int, timeout_s: float = TIMEOUT_S, check: Callable[[], None] = lambda: None
) -> Meeting:
    """Bring `size` ranks together: `port://FILE`, or an address that torch knows (env://, file://...). `check` is that
    of the meeting.

    Raises TrocarError if they don't all arrive within `timeout_s` seconds.
    """
    file = Path(where.removeprefix(SCHEME)) if where.startswith(SCHEME) else None
    if file is not None:
        store: Store = port_store(file, rank, size, timeout_s)
    else:
        store, rank, size = next(rendezvous(where, rank, size, timeout=timedelta(seconds=timeout_s)))
        store.set_timeout(timedelta(seconds=timeout_s))
    meeting = Meeting(store, rank, size, check)
    meeting.wait("arrival", timeout_s)
    if file is not None and rank == 0:
        # All have read it. A second command of the same step must not find this one's port while it still answers.
        file.unlink(missing_ok=True)
    return meeting


def port_store(file: Path, rank: int, size: int, timeout_s: float = TIMEOUT_S) -> TCPStore:
    """The store of `size` ranks, kept by rank 0 and published in `file`, which must be new for each start of a job.

    A file that an earlier life left is no harm: nobody answers at its port, and it is read again until it is replaced.
    Raises TrocarError if rank 0 can't be reached within `timeout_s` seconds.
    """
    limit = timedelta(seconds=timeout_s)
    if rank == 0:
        store = TCPStore("0.0.0.0", 0, size, is_master=True, timeout=limit, wait_for_workers=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(file, {"hosts": _own_names(), "port": store.port}, sync=False)
        return store
    host, port = _wait_for(file, time.monotonic() + timeout_s)
    return TCPStore(host, port, size, is_master=False, timeout=limit, wait_for_workers=False)


def _own_names() -> list[str]:
    """Names that this machine may be known by elsewhere; SLURM's first, which its other machines must resolve."""
    names = [os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()]
    return list(dict.fromkeys(name for name in names if name))


def _wait_for(file: Path, deadline: float) -> tuple[str, int]:
    tried = f"{file} did not appear"
    while time.monotonic() < deadline:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {"hosts": [], "port": 0}
        for host in found["hosts"]:
            try:
                socket.create_connection((host, found["port"]), timeout=5).close()
            except OSError as error:
                tried = f"{host} port {found['port']}: {error}"
            else:
                return host, int(found["port"])
        time.sleep(0.2)
    raise TrocarError(
        f"rank 0 could not be reached ({tried}); do the job's machines reach each other by name, and share this folder?"
    )


Send = Callable[[int], object]
Passing = Callable[[Send], AbstractContextManager[None]]
"""Within, signals that this process receives go to the `Send` it was given: the command line installs handlers."""

GRACE_S = 60.0  # for the other ranks to notice that one has died, before they are killed


def launch(
    arguments: Sequence[str],
    ranks: int,
    say: Say,
    passing: Passing = lambda send: nullcontext(),
) -> int:
    """Run `python -m trocar ARGUMENTS` in `ranks` processes and return the first non-zero exit code, else 0.

    Stop signals are passed on by `passing`; whatever else ends the wait, such as Ctrl-C in a notebook, asks the ranks
    to save and stop, and waits for them. When one rank fails the others are ended: they would wait for it for ever.
    """
    with tempfile.TemporaryDirectory(prefix="trocar-rendezvous-") as folder:
        processes = [_start(arguments, rank, ranks, Path(folder) / "store") for rank in range(ranks)]
        with passing(lambda number: _pass_on(processes, number)):
            try:
                return _wait(processes, say)
            except BaseException:
                _pass_on(processes, signal.SIGTERM)
                _wait(processes, lambda line: None)
                raise


STARTED_BY = "TROCAR_STARTED_BY"


@contextmanager
def helpers(arguments: Sequence[str], ranks: int, store: Path) -> Iterator[Callable[[], None]]:
    """`python -m trocar ARGUMENTS` as ranks 1 and up, beside this process, which is rank 0; all meet at `store`.

    Yields what raises TrocarError as soon as one of them has failed. However the block is left, they have ended then:
    by themselves after its end, else they are ended.
    """
    processes: list[subprocess.Popen[bytes]] = []
    variables = {STARTED_BY: str(os.getpid()), SILENT: "1"}
    try:
        for rank in range(1, ranks):
            processes.append(_start(arguments, rank, ranks, store, variables))
        yield lambda: _require_helpers(processes)
        with suppress(subprocess.TimeoutExpired):
            for process in processes:
                process.wait(GRACE_S)
    finally:
        _pass_on(processes, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(_LEAVE_S)
            except BaseException:  # also a second Ctrl-C
                process.kill()
                process.wait()


def _require_helpers(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank, process in enumerate(processes, start=1):
        if code := process.poll():
            how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
            raise TrocarError(
                f"rank {rank} of {len(processes) + 1} {how}, so the others end; the same command goes on with what is "
                "finished"
            )


def end_with(parent: int) -> None:
    """Let this process end soon after `parent`, which started it, whatever ended that one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="trocar-parent", daemon=True).start()


def _start(
    arguments: Sequence[str], rank: int, ranks: int, store: Path, variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **variables,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "TROCAR_RENDEZVOUS": f"file://{store}",
    }
    # A session of its own: Ctrl-C reaches the ranks once, through us.
    return subprocess.Popen([sys.executable, "-m", "trocar", *arguments], env=environment, start_new_session=True)


def _pass_on(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]], say: Say) -> int:
    failed, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        first = next((code for code in codes if code), 0)
        if first and not failed:
            failed, since = first, time.monotonic()
            for line in _who_was_killed(codes):
                say(line)
            _pass_on(processes, signal.SIGTERM)
        if failed and time.monotonic() - since > GRACE_S:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    code = failed or next((p.returncode for p in processes if p.returncode), 0)
    return 128 - code if code < 0 else code


def _who_was_killed(codes: Sequence[int | None]) -> list[str]:
    """The rank itself can't say it, and the others only see a connection that broke."""
    return [
        f"trocar: rank {rank} of {len(codes)} was killed by signal {-code} (out of memory?), so the others "
        f"end; the same command continues from the last checkpoint"
        for rank, code in enumerate(codes)
        if code is not None and code < 0
    ]
