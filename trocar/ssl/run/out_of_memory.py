"""Out of memory as a sentence: what a step's memory depends on, with the values it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trocar.backbones.out_of_memory import is_out_of_memory
from trocar.errors import TrocarError
from trocar.ssl.engine.trainer import TrainConfig


@contextmanager
def explained(train: TrainConfig, ranks: int) -> Iterator[None]:
    """Within, memory that a device or the system refuses is a TrocarError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrocarError(_sentence(train, ranks, error)) from error
        raise


def _sentence(train: TrainConfig, ranks: int, error: RuntimeError | MemoryError) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"out of memory with {train.batch // (ranks * train.accumulate)} frames at a time on each of {ranks} rank(s) "
        f"({first}). Raise train.accumulate (now {train.accumulate}), set train.grad_checkpointing to true (now "
        f"{str(train.grad_checkpointing).lower()}) or lower train.batch (now {train.batch}); `trocar pretrain` with "
        f"--dry-run estimates what is needed. A run that has checkpoints goes on with such a change where resume.allow "
        f"names it, as [recipe.train.accumulate] does"
    )
