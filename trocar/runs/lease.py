"""One writer per run folder: RUN/lease.json.

Two jobs that train into one folder (a requeued job beside its not quite dead predecessor, a command typed
twice) would mix their checkpoints. The writer holds a lease and bumps its counter every few seconds. Another
process takes the lease over when the holder is

  (a) the same SLURM job with a lower restart count: SLURM requeued it, the older life is over;

  (b) a process of this host that runs no more (a reused pid is told apart by its start time);

  (c) silent: the counter hasn't moved for `stand_still_s` of the waiter's own monotonic clock. The wall
  clocks of two hosts are never compared.

Otherwise it is refused. A holder that slept through (c), stopped or cut off from the file system, finds out
in `check()`, which is called before anything is published.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from trocar.core.files import locked, write_json_atomic
from trocar.core.resources import is_gone, this_process
from trocar.errors import TrocarError

NAME = "lease.json"


class LeaseHeld(TrocarError):  # noqa: N818 - what happened, in the words a user reads
    """Another process is writing to this run folder."""


class LeaseLost(TrocarError):  # noqa: N818
    """This process was writing to the run folder and another one has taken over; it must stop and publish
    nothing.
    """


@dataclass(frozen=True)
class JobIdentity:
    """A SLURM job and how often it has been requeued; array tasks have job ids of their own."""

    job_id: str
    restart_count: int = 0
    cluster: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> JobIdentity | None:
        """The SLURM job this process belongs to, or None outside of SLURM."""
        job_id = environ.get("SLURM_JOB_ID")
        if not job_id:
            return None
        restarts = environ.get("SLURM_RESTART_COUNT", "")
        return cls(job_id, int(restarts) if restarts.isdigit() else 0, environ.get("SLURM_CLUSTER_NAME", ""))

    def is_later_life_of(self, other: JobIdentity) -> bool:
        """Whether this is the same job after one more requeue."""
        same = (self.job_id, self.cluster) == (other.job_id, other.cluster)
        return same and self.restart_count > other.restart_count


@dataclass(frozen=True)
class Holder:
    """What lease.json says about the process that holds the lease."""

    token: str
    host: str
    pid: int
    pid_space: str = ""
    started: str | None = None
    job: JobIdentity | None = None
    counter: int = 0

    @classmethod
    def this_process(cls, job: JobIdentity | None) -> Holder:
        """A fresh token for the calling process."""
        return cls(uuid.uuid4().hex, **this_process(), job=job)

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """None for a file that isn't a lease (torn by a crash of the file system): only its stillness can be
        judged.
        """
        try:
            record = json.loads(text)
            job = record.pop("job", None)
            return cls(**record, job=JobIdentity(**job) if job else None)
        except (ValueError, TypeError, AttributeError):
            return None

    def is_dead(self) -> bool:
        """Whether the holder ran on this host, in pids this process can see, and runs no more."""
        return is_gone(asdict(self))

    def __str__(self) -> str:
        job = f", SLURM job {self.job.job_id} (restart {self.job.restart_count})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


class Lease:
    """The lease on one run folder. Get it with `acquire`; use it as a context manager or call `release`."""

    def __init__(self, folder: Path, holder: Holder, beat_s: float) -> None:
        self.folder = folder
        self.holder = holder
        self.lost = False
        self._beat_s = beat_s
        self._counter = holder.counter
        self._ended = threading.Event()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._beat_until_ended, name="trocar-lease", daemon=True)

    @classmethod
    def acquire(
        cls,
        folder: str | Path,
        *,
        job: JobIdentity | None = None,
        stand_still_s: float = 120.0,
        poll_s: float = 1.0,
        beat_s: float = 5.0,
    ) -> Lease:
        """Take the lease of `folder` (made if absent), waiting up to `stand_still_s` seconds for a silent
        holder.

        `job` defaults to the SLURM job in the environment. All leases of a folder should use the same times,
        and `stand_still_s` must be several times `beat_s`. Raises LeaseHeld as soon as the holder shows a
        sign of life.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mine = Holder.this_process(job if job is not None else JobIdentity.from_environment())
        seen: bytes | None = None
        since = time.monotonic()
        while True:
            now = _try_take(folder, mine, seen if time.monotonic() - since >= stand_still_s else None)
            if now is None:
                return cls(folder, mine, beat_s)._started()
            if seen is not None and now != seen:
                raise LeaseHeld(_held_message(folder, now))
            seen = now
            time.sleep(poll_s)

    def check(self) -> None:
        """Reread the lease and bump the counter. Raises LeaseLost if it isn't this process's any more."""
        self._beat()
        if self.lost:
            raise LeaseLost(
                f"{self.folder} has been taken over by another process (or its {NAME} was removed); this one "
                f"({self.holder}) stops and writes nothing more. The run continues from its last checkpoint"
            )

    def release(self) -> None:
        """End the heartbeat and remove the lease if it is still this process's. Calling it again does
        nothing.
        """
        self._ended.set()
        # A forked child inherits the object, not the lease.
        if os.getpid() != self.holder.pid:
            return
        with self._mutex, locked(self.folder / ".lease.lock"):
            if self._is_mine():
                (self.folder / NAME).unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _started(self) -> Lease:
        self._thread.start()
        return self

    def _beat_until_ended(self) -> None:
        while not self._ended.wait(self._beat_s) and not self.lost:
            # A full disk or a file server away for a minute: the next beat may work, and `check` has the last
            # word.
            with suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        with self._mutex:
            if self._ended.is_set() or not self._bump():
                self.lost = True

    def _bump(self) -> bool:
        """Compare and count up in place: a successor replaces the file, so one that slept in between, even here, can't
        write over its lease. Needs no lock, which a sleeper would keep, and no space on a full disk. False: not ours.
        """
        try:
            descriptor = os.open(self.folder / NAME, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            holder = Holder.parse(os.read(descriptor, 1 << 16))
            if holder is None or holder.token != self.holder.token:
                return False
            self._counter += 1
            record = {**asdict(self.holder), "counter": self._counter}
            os.pwrite(descriptor, json.dumps(record, indent=2).encode() + b"\n", 0)
            return os.fstat(descriptor).st_nlink > 0
        finally:
            os.close(descriptor)

    def _is_mine(self) -> bool:
        content = _read(self.folder)
        holder = Holder.parse(content) if content is not None else None
        return holder is not None and holder.token == self.holder.token


def read_holder(folder: str | Path) -> Holder | None:
    """Who holds the lease of a run folder now, dead or alive; None when it is free."""
    content = _read(Path(folder))
    return Holder.parse(content) if content is not None else None


def _try_take(folder: Path, mine: Holder, silent: bytes | None) -> bytes | None:
    """Take the lease if it is free, its holder is over (a, b), or its content still is `silent` (c).

    Returns None for success, else the content that stands against it.
    """
    with locked(folder / ".lease.lock"):
        content = _read(folder)
        if content is None:
            return None if _create(folder, mine) else (_read(folder) or b"")
        if content == silent or _is_over(content, mine):
            write_json_atomic(folder / NAME, asdict(mine))
            return None
        return content


def _create(folder: Path, mine: Holder) -> bool:
    """Neither `link` nor O_EXCL replaces a name that exists: one winner even where `flock` does nothing."""
    draft = folder / f".{NAME}.{mine.token}"
    write_json_atomic(draft, asdict(mine))
    try:
        (folder / NAME).hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError:
        # A file system without hard links.
        return _create_exclusively(folder / NAME, draft.read_bytes())
    finally:
        draft.unlink(missing_ok=True)
    return True


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _is_over(content: bytes, mine: Holder) -> bool:
    holder = Holder.parse(content)
    if holder is None:
        return False
    requeued = mine.job is not None and holder.job is not None and mine.job.is_later_life_of(holder.job)
    return requeued or holder.is_dead()


def _read(folder: Path) -> bytes | None:
    try:
        return (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None


def _held_message(folder: Path, content: bytes) -> str:
    holder = Holder.parse(content)
    who = str(holder) if holder else "another process"
    stop = "stop it first"
    if holder is not None:
        stop = f"`scancel {holder.job.job_id}`" if holder.job else f"`kill {holder.pid}` on {holder.host}"
    return (
        f"{folder} is being written by {who}. "
        f"Wait until it has ended, stop it ({stop}), or choose another output folder"
    )
