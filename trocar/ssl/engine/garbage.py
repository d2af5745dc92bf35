"""Python's garbage collector at fixed steps: at a random one of a random rank it makes all the others wait."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 150  # steps, as in DINOv3's code


@contextmanager
def collected_at_fixed_steps() -> Iterator[Callable[[int], None]]:
    """Within, the collector runs only when the function that is handed out is called after a multiple of EVERY steps,
    and where a checkpoint is written.

    What is there already is set aside, so that a collection looks at what came since and takes no time.
    """
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield _collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def _collect(done: int) -> None:
    if done % EVERY == 0:
        gc.collect()
