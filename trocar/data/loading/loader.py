"""Plan, views, reader and backend put together: step -> this rank's augmented views.

Every step is computed from its number alone, so workers, prefetching and ranks change nothing about its content.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from trocar.core.random import I64
from trocar.core.resources import torch_threads
from trocar.data.loading.batch import Batch, Crops
from trocar.data.loading.reader import Reader
from trocar.data.loading.steps import Steps, cut, decode_row, empty_crops, torch_crops
from trocar.data.loading.workers import Patience, from_workers
from trocar.data.selection.neighbours import NeighbourRule
from trocar.data.selection.plan import Plan
from trocar.data.views.augment import COMPILER, augment
from trocar.data.views.recipe import ViewParams, ViewPlan

Backend = Literal["torch", "dali"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Loader:
    """The data path of one rank. `mean` and `std` are those of the backbone, for RGB in 0..1.

    `neighbours` is the rule for the other frames of a sample, which a recipe with views of neighbours needs.

    With the torch backend `workers` processes decode and crop; on a CPU they augment as well, with a GPU the views are
    made there. With DALI `workers` is the number of its decoding threads. None: everything in the calling thread.
    Views are on `device`, and ready for the stream that is current when they are handed out.
    `timeout_s`: seconds without a batch from workers or thread after which `iterate` raises; None: never.
    """

    plan: Plan
    views: ViewPlan
    reader: Reader
    mean: Sequence[float]
    std: Sequence[float]
    rank: int = 0
    world: int = 1
    workers: int = 2
    backend: Backend = "torch"
    device: torch.device = CPU
    hw_decoder_load: float = 0.0
    neighbours: NeighbourRule | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        _ = self.steps  # which refuses a batch that doesn't divide

    @cached_property
    def steps(self) -> Steps:
        """This rank's share of every step."""
        return Steps(self.plan, self.views, self.reader, self.rank, self.world, self.neighbours)

    def batch(self, step: int) -> Batch:
        """Compute one step in this process, on one thread as worker processes do."""
        return next(self._alone(step, step + 1))

    def crops(self, step: int) -> Crops:
        """The uint8 crops of one step, before augmentation."""
        if self.backend == "torch":
            return torch_crops(self.steps, step)
        return next(self._dali(step, step + 1))

    def augmented(self, crops: Crops) -> Batch:
        """Make the views of `crops`, on the device that they are on."""
        views = augment(crops.crops, crops.params, self.views.recipe, self.mean, self.std, COMPILER)
        return Batch(crops.step, crops.rows, views, crops.params, crops.bad, _neighbours(crops.frames))

    def iterate(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Batches of steps start..stop-1 in order, prefetched unless there are no workers.

        Raises TrocarError where the data can't be read, or don't come; every step before that has been handed out.
        """
        if self.workers == 0:
            return self._alone(start, stop)
        if self.backend == "dali":
            return self._from_dali(start, stop)
        if self.device.type == "cpu":
            return self._from_workers(start, stop, self.batch)
        from trocar.data.loading.prefetch import on_side_stream

        return on_side_stream(self._from_workers(start, stop, self.crops), self.augmented, self.device)

    def _alone(self, start: int, stop: int) -> Generator[Batch, None, None]:
        if self.device.type == "cuda":
            from trocar.data.loading.prefetch import to_device

            cut = (self.crops(step) for step in range(start, stop))
            source = self._dali(start, stop) if self.backend == "dali" else cut
            yield from (self.augmented(to_device(crops, self.device)) for crops in source)
        elif self.backend == "dali":
            yield from (_one_thread(self.augmented, crops) for crops in self._dali(start, stop))
        else:
            yield from (_one_thread(self._cut_and_augment, step) for step in range(start, stop))

    def _from_dali(self, start: int, stop: int) -> Generator[Batch, None, None]:
        from trocar.data.loading.prefetch import in_thread

        if self.device.type == "cpu":
            # Views are made here and not in the thread: the number of threads of torch is one for the whole process.
            crops = in_thread(lambda: self._dali(start, stop), self._patience(start))
            return (_one_thread(self.augmented, item) for item in crops)
        from trocar.data.loading.prefetch import handed_over, produced

        make = produced(lambda: self._dali(start, stop), self.augmented, self.device)
        return handed_over(in_thread(make, self._patience(start)), self.device)

    def _dali(self, start: int, stop: int) -> Iterator[Crops]:
        from trocar.data.loading.dali_stream import DaliStream

        stream = DaliStream(self.steps, start, stop, self.device, max(1, self.workers), self.hw_decoder_load)
        try:
            yield from stream
        finally:
            stream.close()

    def _patience(self, start: int) -> Patience:
        return Patience(start, self.rank, self.timeout_s)

    def _from_workers(self, start: int, stop: int, make: Callable[[int], Any]) -> Generator[Any, None, None]:
        return from_workers(
            make,
            range(start, stop),
            self.workers,
            pin=self.device.type == "cuda",
            patience=self._patience(start),
            if_it_dies="Lower run.workers or train.batch; the same command continues from the last checkpoint",
        )

    def _cut_and_augment(self, step: int) -> Batch:
        # Sample by sample: the crops of a whole batch would lie beside its views, in every worker.
        one = empty_crops(self.views.recipe, 1)
        out = {name: _room((self.steps.batch, *crops.shape[1:])) for name, crops in one.items()}

        def use(index: int, frames: list[Tensor], params: ViewParams) -> None:
            alone = params.samples(slice(index, index + 1))
            cut(frames, alone, self.views.recipe, one, 0)
            for name, views in augment(one, alone, self.views.recipe, self.mean, self.std).items():
                out[name][index] = views[0]

        done = self.steps.deliver(step, partial(decode_row, self.steps), use)
        return Batch(step, done.rows, out, done.params, done.bad, _neighbours(done.frames))


def _neighbours(frames: I64) -> I64 | None:
    return frames[:, 1:] if frames.shape[1] > 1 else None


def _room(shape: tuple[int, ...]) -> Tensor:
    room = torch.empty(shape)
    # A worker hands its batch over in shared memory. Made there, it isn't copied to it, and never exists twice.
    return room if get_worker_info() is None else room.share_memory_()  # type: ignore[no-untyped-call]


def _one_thread(function: Callable[[Any], Batch], argument: Any) -> Batch:
    with torch_threads(1):
        return function(argument)
