"""Plan, views, reader and backend put together: step -> this rank's augmented views.

Every step is computed from its number alone, so workers, prefetching and ranks change nothing about its content.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trocar.data.augment import augment
from trocar.data.counter import I64
from trocar.data.plan import Plan
from trocar.data.reader import BadRow, Reader, sizes
from trocar.data.torch_backend import SampleBuffer, decode
from trocar.data.views import ViewParams, ViewPlan
from trocar.errors import ConfigError, TrocarError


@dataclass(frozen=True)
class Batch:
    """This rank's slice of a step: `rows` int64[b] as delivered, `views` {group: float32[b, n, 3, S, S]}."""

    step: int
    rows: I64
    views: dict[str, Tensor]
    params: ViewParams
    bad: list[BadRow] = field(default_factory=list)


@dataclass(frozen=True)
class Loader:
    """The data path of one rank. `mean` and `std` are those of the backbone, for RGB in 0..1."""

    plan: Plan
    views: ViewPlan
    reader: Reader
    mean: Sequence[float]
    std: Sequence[float]
    rank: int = 0
    world: int = 1
    workers: int = 2

    def __post_init__(self) -> None:
        if self.plan.batch % self.world:
            raise ConfigError(f"batch {self.plan.batch} does not divide by {self.world} ranks; change one of them")

    def batch(self, step: int) -> Batch:
        """Compute one step, in this process, on one thread as worker processes do."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._batch(step)
        finally:
            torch.set_num_threads(threads)

    def _batch(self, step: int) -> Batch:
        per_rank = self.plan.batch // self.world
        slots = np.arange(self.rank * per_rank, (self.rank + 1) * per_rank, dtype=np.int64)
        rows = self.plan.rows(step)[slots, 0]
        params = self.views.params(step, slots, *sizes(self.reader.catalog, rows))
        buffer = SampleBuffer(self.views.recipe, per_rank)
        bad: list[BadRow] = []
        for index, (slot, row) in enumerate(zip(slots.tolist(), rows.tolist(), strict=True)):
            use = self._cutter(buffer, params, index, step, slot, planned=row)
            rows[index], found = self.reader.deliver(self.plan, step, slot, row, use)
            bad += found
        return Batch(step, rows, self._augmented(buffer, params, per_rank), params, bad)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches of steps start..stop-1 in order, prefetched by worker processes (none: computed in this one)."""
        if self.workers == 0:
            yield from (self.batch(step) for step in range(start, stop))
            return
        for batch in DataLoader(
            _Steps(self, start, stop),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=2,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_quiet_worker,
            multiprocessing_context=_context(),
        ):
            if isinstance(batch, TrocarError):
                raise batch
            yield batch

    def _cutter(
        self, buffer: SampleBuffer, params: ViewParams, index: int, step: int, slot: int, planned: int
    ) -> Callable[[int, bytes], None]:
        """What to do with the frame of one slot: decode it and cut its views into the buffer."""

        def use(row: int, jpeg: bytes) -> None:
            width, height = sizes(self.reader.catalog, np.array([row]))
            image = decode(jpeg, int(width[0]), int(height[0]))
            if row != planned:  # a stand-in gets boxes of its own size
                params.assign(index, self.views.params(step, np.array([slot]), width, height))
            buffer.fill(index, image, params.samples(slice(index, index + 1)))

        return use

    def _augmented(self, buffer: SampleBuffer, params: ViewParams, samples: int) -> dict[str, Tensor]:
        # One sample at a time: the rounding of a batched product may depend on the size of the batch, and a global
        # batch must not depend on how many ranks share it.
        parts = [
            augment(
                {name: crops[i : i + 1] for name, crops in buffer.crops.items()},
                params.samples(slice(i, i + 1)),
                self.views.recipe,
                self.mean,
                self.std,
            )
            for i in range(samples)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in buffer.crops}


class _Steps(Dataset[Batch | TrocarError]):
    """The steps of a run as a map-style dataset, so that a DataLoader can prefetch them in order."""

    def __init__(self, loader: Loader, start: int, stop: int) -> None:
        self.loader, self.start, self.stop = loader, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch | TrocarError:
        # A DataLoader wraps what its workers raise in their traceback; a message for people travels as a value.
        try:
            return self.loader.batch(self.start + index)
        except TrocarError as error:
            return error


def _quiet_worker(worker: int) -> None:
    # A signal to the whole process group (Ctrl-C, a cluster's SIGTERM) is the trainer's to answer: it still needs the
    # batches on their way to reach the end of its step. Workers end when the trainer does.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _context() -> multiprocessing.context.BaseContext:
    # fork spares each worker the import of torch; the workers never touch CUDA.
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
