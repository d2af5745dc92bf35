"""Numbered items that worker processes compute ahead of their use, in order, whatever the number of processes.

How long the next batch is waited for: said after a minute, ended only after a limit.
"""

from __future__ import annotations

import atexit
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from trocar.core.resources import granted_cores
from trocar.errors import TrocarError

log = logging.getLogger(__name__)

WARN_S = 60.0
ASK_S = 5.0
"""How often one that waits looks at the clock."""


class Patience:
    """Of one rank that waits for the batches of a loader, one after another.

    `limit_s`: seconds without a batch that are an error; None: it is never one. Storage that is slow and storage that
    is stuck look the same from here, so a warning comes long before, and again each time the wait has doubled. Time
    in which nobody looked at the clock doesn't count: the whole job was suspended then, and its workers with it.
    """

    def __init__(self, first_step: int, rank: int, limit_s: float | None) -> None:
        self.step, self.rank, self.limit_s = first_step, rank, limit_s
        self.is_over = False
        self._lock = threading.Lock()  # of the three below
        self._is_waiting, self._waited_s, self._looked = False, 0.0, 0.0
        self._warn_s = WARN_S

    def asked_for(self) -> None:
        """The next batch is being waited for from now on."""
        with self._lock:
            self._is_waiting, self._waited_s, self._looked = True, 0.0, time.monotonic()
        self._warn_s = WARN_S

    def came(self) -> None:
        """It is there, and nothing is waited for."""
        with self._lock:
            self._is_waiting = False
        self.step += 1

    @property
    def slice_s(self) -> float:
        """Seconds to wait before there may be something to say."""
        return ASK_S if self.limit_s is None else min(ASK_S, self.limit_s / 2)

    def warn(self) -> None:
        """To be called now and then while a batch is waited for, or might be."""
        waited = self._waited()
        if waited >= self._warn_s:
            log.warning("no batch for %.0f s, step %d, rank %d", waited, self.step, self.rank)
            self._warn_s = 2 * waited

    def check(self, more_s: float = 0.0) -> None:
        """Raises TrocarError at the limit, or `more_s` seconds behind it."""
        waited = self._waited()
        if self.limit_s is not None and waited >= self.limit_s + more_s:
            self.is_over = True
            raise self.error(waited)

    def error(self, waited_s: float | None = None) -> TrocarError:
        """What there is to say at the end of it."""
        waited_s = self._waited() if waited_s is None else waited_s
        return TrocarError(
            f"no batch for {waited_s:.0f} s (run.data_timeout_s = {self.limit_s:g}), step {self.step}, rank "
            f"{self.rank}: the storage of the shards, or what decodes them, is stuck. The same command continues from "
            f"the last checkpoint"
        )

    @contextmanager
    def watched(self, stuck: Callable[[], None]) -> Iterator[None]:
        """Warn from a thread of its own, and call `stuck` there where the one that waits has missed the limit itself:
        it may be caught in what it waits for, such as the socket of a process that is stopped.
        """
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self.slice_s):
                self.warn()
                try:
                    self.check(more_s=2 * self.slice_s)
                except TrocarError:
                    return stuck()

        thread = threading.Thread(target=watch, name="trocar-patience", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _waited(self) -> float:
        with self._lock:
            if not self._is_waiting:
                return 0.0
            now = time.monotonic()
            self._waited_s += min(now - self._looked, 2 * self.slice_s)
            self._looked = now
            return self._waited_s


Item = TypeVar("Item")

PREFETCH = 2
"""Items that each worker is ahead, in shared memory."""
MOST = 16
DEATH_S = 5.0
"""For a killed worker to be gone: one inside a file system that hangs may never be."""
LEAST_ITEMS = 4
"""Items for each worker, or starting it takes longer than it saves."""
SHARED = Path("/dev/shm")


def worker_count(wanted: int | None, item_bytes: int, items: int) -> int:
    """Processes for so many items of so many bytes each: `wanted`, or all cores but two; never more than pay, or than
    find room in half of the shared memory for what they are ahead. 0: none pays.
    """
    most = min(MOST, granted_cores() - 2) if wanted is None else wanted
    try:
        shared = os.statvfs(SHARED)
        fitting = shared.f_frsize * shared.f_blocks // 2 // (PREFETCH * max(1, item_bytes))
    except OSError:
        fitting = most
    return max(0, min(most, fitting, items // LEAST_ITEMS))


def from_workers(
    make: Callable[[int], Item],
    numbers: range,
    workers: int,
    *,
    pin: bool,
    patience: Patience,
    if_it_dies: str,
    generator: torch.Generator | None = None,
) -> Generator[Item, None, None]:
    """make(number) of each, in order, computed in processes that must not touch a GPU; in pinned memory with `pin`.

    The processes' own random numbers are seeded by one of `generator` (None: torch's, which moves on by one). Raises
    the TrocarError that `make` raises, TrocarError with `if_it_dies` for a process that dies, and what ends `patience`.
    """
    # What is garbage here must not be destroyed in the workers: a pipeline of DALI would take them down.
    gc.collect()
    items = iter(
        DataLoader(
            _Computed(make, numbers),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            # After which the iterator comes back to be asked again, having looked for workers that died.
            timeout=patience.slice_s,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            multiprocessing_context=_context(),
            generator=generator,
        )
    )
    _leave_deaths_to_the_queue()
    # At the end of the program as well: workers ignore the SIGTERM by which multiprocessing would end them, and an
    # error whose traceback keeps this iterator would wait for them for ever.
    end = partial(_end, items)
    atexit.register(end)
    try:
        with patience.watched(stuck=lambda: _kill(items)):
            for item in _patiently(items, patience):
                if isinstance(item, TrocarError):
                    raise item
                yield item
    except Exception as error:
        if patience.is_over:
            raise patience.error() from None
        # An item's memory is asked for at its worker, which may be gone since it announced the item: whatever that
        # raises, the reason is a worker that ended.
        asked_in_vain = isinstance(error, ConnectionError | EOFError)
        if isinstance(error, TrocarError) or not (asked_in_vain or _has_died(items)):
            raise
        what = (str(error) or repr(error)).splitlines()[0]
        raise TrocarError(f"a loader worker ended before its time ({what}); out of memory? {if_it_dies}") from None
    finally:
        end()
        atexit.unregister(end)


def _end(items: Any) -> None:
    """Have the workers end, and kill those that don't: one that waits for its storage hears nothing else."""
    late = threading.Timer(DEATH_S, lambda: [worker.kill() for worker in items._workers])
    late.daemon = True
    with suppress(RuntimeError):  # at the end of the program there may be no new threads
        late.start()
    items._shutdown_workers()
    late.cancel()


def _patiently(items: Any, patience: Patience) -> Iterator[Any]:
    """The items of a DataLoader's iterator that has a `timeout`, asked for each as often as patience lasts."""
    while True:
        patience.asked_for()
        try:
            while (item := _once(items)) is _NOT_YET:
                patience.check()
        except StopIteration:
            return
        except TrocarError:
            _kill(items)
            raise
        patience.came()
        yield item


def _has_died(items: Any) -> bool:
    return any(worker.exitcode not in (None, 0) for worker in items._workers)


def _kill(items: Any) -> None:
    """End the workers: stuck ones don't when they are asked to.

    Each looks again and again whether the iterator has ended, under a lock that it shares with it. One that is killed
    while it looks leaves the lock taken, and whoever asks for it next would wait for ever.
    """
    for worker in items._workers:
        worker.kill()
    for worker in items._workers:
        worker.join(DEATH_S)
    with suppress(ValueError):  # nobody has it
        items._workers_done_event._cond._lock.release()


_NOT_YET = object()


def _once(items: Any) -> Any:
    try:
        return next(items)
    except RuntimeError as error:
        # The iterator has changed nothing yet when it raises this, and nothing else tells it from the death of one.
        if str(error).startswith("DataLoader timed out"):
            return _NOT_YET
        raise


class _Computed(Dataset[Any]):
    """Numbered items as a map-style dataset, so that a DataLoader can prefetch them in order."""

    def __init__(self, make: Callable[[int], Any], numbers: range) -> None:
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        # A DataLoader wraps what its workers raise in their traceback; a message for people travels as a value.
        try:
            return self.make(self.numbers[index])
        except TrocarError as error:
            return error


def _start_worker(worker: int) -> None:
    # Nothing the trainer owns is a worker's to destroy, and what its collector doesn't visit stays shared memory.
    gc.freeze()
    # A signal to the whole process group (Ctrl-C, a cluster's SIGTERM) is the trainer's to answer: it still needs the
    # batches on their way to reach the end of its step. Workers end when the trainer does.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _leave_deaths_to_the_queue() -> None:
    # torch answers SIGCHLD by raising at whatever line the main thread is, in the middle of a checkpoint too. Without,
    # the iterator itself finds a dead worker within five seconds of waiting for its batch.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _context() -> multiprocessing.context.BaseContext:
    # fork spares each worker the import of torch; the workers never touch CUDA.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
