"""How ranks on several machines find each other: a port that the kernel chose, published in a file all of them see.

A port worked out from the job id can be taken by another job of the same machine. And torch's own file store needs
`flock` between machines, which some network file systems refuse and others only pretend to have.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch.distributed import Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from trocar.core.files import write_json_atomic
from trocar.errors import TrocarError

SCHEME = "port://"
TIMEOUT_S = 900.0
"""For all ranks to arrive: a machine may still be copying shards, or loading Python from a busy file system."""

_ASK_S, _LEAVE_S = 0.2, 10.0


@dataclass(frozen=True)
class Meeting:
    """Where `size` ranks have met: what they can tell each other without a collective, a device or its time limit."""

    store: Store
    rank: int
    size: int

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
                time.sleep(_ASK_S)
        except RuntimeError as error:
            raise TrocarError(
                f"rank 0 has ended while this one waited for all at '{name}' ({str(error).splitlines()[0]}); its own "
                f"message says why"
            ) from None

    def leave(self) -> None:
        """Say that this rank asks nothing more. Rank 0 waits a little for the others: the store ends with it, and a
        rank that is only late would take that for an error.
        """
        with suppress(RuntimeError):
            gone, deadline = self.store.add("gone", 1), time.monotonic() + _LEAVE_S
            while self.rank == 0 and gone < self.size and time.monotonic() < deadline:
                time.sleep(_ASK_S)
                gone = self.store.add("gone", 0)


def meet(where: str, rank: int, size: int, timeout_s: float = TIMEOUT_S) -> Meeting:
    """Bring `size` ranks together: `port://FILE`, or an address that torch knows (env://, file://...).

    Raises TrocarError if they don't all arrive within `timeout_s` seconds.
    """
    file = Path(where.removeprefix(SCHEME)) if where.startswith(SCHEME) else None
    if file is not None:
        store: Store = port_store(file, rank, size, timeout_s)
    else:
        store, rank, size = next(rendezvous(where, rank, size, timeout=timedelta(seconds=timeout_s)))
        store.set_timeout(timedelta(seconds=timeout_s))
    meeting = Meeting(store, rank, size)
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
