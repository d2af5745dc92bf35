"""Jobs over worker processes, whose end is never the end of the ingest's bookkeeping."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from trocar.data.catalog.writer import Rejected
from trocar.data.ingest import record
from trocar.data.ingest.pack import DIED
from trocar.data.ingest.video import JobOutcome


class PooledJob(Protocol):
    """What a worker does at a time: a video, a pack of stills, a tar of others."""

    @property
    def name(self) -> str:
        """Its name in the shards folder."""

    @property
    def root(self) -> Path:
        """The shards folder."""

    @property
    def shown(self) -> str:
        """For messages."""

    @property
    def bytes(self) -> int:
        """Size of the source."""

    def run(self) -> JobOutcome:
        """Do it."""

    def after_crash(self) -> PooledJob | None:
        """What is left to do when its process died; None for nothing."""


def run_jobs(jobs: Sequence[PooledJob], workers: int, suspects: Collection[str] = ()) -> Iterator[JobOutcome]:
    """Outcomes in order of completion. With one worker everything runs in this process.

    A video whose decoding kills its process is found by running what was left one by one, and is rejected. `suspects`
    name those that may have ended an ingest of one process: they get a process of their own.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from (_alone(job) if job.name in suspects else _run(job) for job in jobs)
        return
    left = {job.name: job for job in jobs}
    try:
        for outcome in _pooled(jobs, workers):
            del left[outcome.name]
            yield outcome
    except BrokenProcessPool:
        for job in left.values():
            yield _alone(job)


def _pooled(jobs: Sequence[PooledJob], workers: int) -> Iterator[JobOutcome]:
    # The workers hold one end, the kernel closes the other when this process ends, however that happens.
    alive, held = multiprocessing.Pipe(duplex=False)
    # A server that has the imports done once forks workers in no time, and they share its memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trocar.data.ingest.pack"])
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_begin, initargs=(alive,))
    try:
        # The largest first: a long video that begins last would leave the other workers idle.
        ordered = sorted(jobs, key=lambda job: job.bytes, reverse=True)
        futures: set[Future[JobOutcome]] = {pool.submit(_run, job) for job in ordered}
        while futures:
            done, futures = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        pool.shutdown()
    except BaseException:
        # Ctrl-C, a full disk or a lost worker: the others are in the middle of videos that nobody waits for.
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        held.close()
        alive.close()


def _run(job: PooledJob) -> JobOutcome:
    return job.run()


def _alone(job: PooledJob) -> JobOutcome:
    left: PooledJob | None = job
    while left is not None:
        try:
            (outcome,) = _pooled([left], 1)
        except BrokenProcessPool:
            left = left.after_crash()
        else:
            return outcome
    rejected = Rejected(job.shown, *DIED)
    record.save_rejected(job.root, job.name, rejected)
    return JobOutcome(job.name, rejected=(rejected,), finished=False)


def _begin(alive: Connection) -> None:
    # The ingest's own process decides what Ctrl-C and a cluster's warnings mean, which all processes of a job get.
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_follow, args=(alive,), daemon=True).start()


def _follow(alive: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)
