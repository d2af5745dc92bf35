"""Several ranks of an evaluation in one process, each a thread: what they need is where to wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable

from trocar.downstream.work_share import WorkShare


def together(count: int, work: Callable[[WorkShare], object]) -> None:
    """`work` on so many ranks. Raises what a rank raises, after which the others end at their next wait."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def wait(name: str) -> None:
        barrier.wait(60)

    def run(rank: int) -> None:
        try:
            work(WorkShare(rank, count, wait))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
