"""The training loop. Everything it needs is handed in; it knows no method, no file format and no data set.

It polls a callable at each step boundary: that is how a run is asked to stop. Nothing here touches the process: the
command line installs signal handlers and hands in what they have received. Python's garbage collector runs at fixed
steps: at a random one of a random rank it makes all the others wait.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from pydantic import Field
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trocar.backbones.device import Precision, Wanted, autocast, resolved
from trocar.core.config import Config
from trocar.core.random import make_key
from trocar.data.loading.batch import Batch
from trocar.ssl.blocks.networks import eagerly
from trocar.ssl.engine.health import OwnTime, Speed, feature_std, peak_memory, rankme
from trocar.ssl.engine.method import Losses, Method, Progress, Statistics, Views, norm_buffers
from trocar.ssl.engine.optimizer import OptimConfig, Schedule, clip_gradients
from trocar.ssl.engine.staged_backbone import StagedBackbone
from trocar.ssl.ranks.distributed import World, agree, average_
from trocar.ssl.ranks.sharding import Sharding, is_sharded, synchronise

STOPPING = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
"""Signals that ask a run to stop."""

Stop = Callable[[], int]
"""Called at each step boundary: 0 while the run may go on, else the number of the signal that asked it to stop."""

AfterStop = Callable[[int, World], int]
"""What follows a saved stop, called on every rank with the signal's number; returns the exit code."""


def never() -> int:
    """A `Stop` for a caller who has no other way to stop a run than an exception, such as Ctrl-C in a notebook."""
    return 0


def shell_code(number: int, world: World) -> int:
    """Nothing follows: the code is 128 + signal, as shells expect."""
    return 128 + number


COLLECT_EVERY = 150
"""Steps between two runs of Python's garbage collector, as in DINOv3's code."""
RANKME_SAMPLES = 256
"""Of a rank's batch, at most. The same on a CPU: values of different numbers of samples can't be compared."""


@contextmanager
def collected_at_fixed_steps() -> Iterator[Callable[[int], None]]:
    """Within, the collector runs only when the function that is handed out is called after a multiple of
    COLLECT_EVERY steps, and where a checkpoint is written.

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
    if done % COLLECT_EVERY == 0:
        gc.collect()


class TrainConfig(Config):
    """How long, how large, how precise."""

    batch: int = Field(default=256, ge=1, description="global batch: frames per step, over all ranks")
    epochs: float | None = Field(
        default=None, gt=0, description="length in epochs of the selection; give this or `steps`"
    )
    steps: int | None = Field(default=None, ge=1, description="length in steps; give this or `epochs`")
    accumulate: int = Field(default=1, ge=1, description="micro-batches per step and rank")
    precision: Wanted = Field(default="auto", description="auto: bfloat16 on a GPU that has it, else float32")
    grad_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass, for less memory"
    )
    shard: Sharding = Field(
        default="none",
        description="what lies in parts on the ranks, weights, gradients and optimizer state: none; full: over all "
        "ranks; hybrid: over the ranks of each machine",
    )
    sync_batch_norm: bool = Field(default=False, description="batch norms over the global batch instead of each rank's")
    compile: bool = Field(default=False, description="torch.compile of the backbones, block by block")
    max_skipped: int = Field(default=10, ge=0, description="steps with a non-finite loss or gradient before giving up")


class Hooks(Protocol):
    """What the loop reports to; the run folder is behind it."""

    log_every: int

    def logged(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one step; called on every rank, for steps that are logged."""

    def stepped(self, batch: Batch, done: int) -> None:
        """A step has ended; `done` steps are complete."""

    def probed(self, done: int) -> bool:
        """Score what would be exported if a probe is due after `done` steps; True, on every rank, to end here."""

    def save(self, done: int) -> None:
        """Write a checkpoint if one is due after `done` steps."""

    def stop_requested(self) -> int:
        """The number of the signal that asked this rank to stop, 0 while none has."""

    def stopping(self, done: int, number: int) -> None:
        """All ranks agreed to stop, for the signal of the highest number that any of them got: save and raise."""

    def broken(self, batch: Batch, why: str) -> None:
        """Too many skipped steps: keep the batch for the post-mortem."""


@dataclass
class TrainState:
    """What a training counts, and a checkpoint keeps: `skipped`, the steps refused so far."""

    skipped: int = 0


@dataclass
class Trainer:
    """One rank's training; `state` is brought up to date with every step."""

    method: Method
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    config: TrainConfig
    optim: OptimConfig
    seed: int
    world: World
    device: torch.device
    hooks: Hooks
    state: TrainState = field(default_factory=TrainState)
    _model: nn.Module = field(init=False, repr=False)
    _precision: Precision = field(init=False, repr=False)
    _statistics: Statistics = field(init=False, repr=False)
    _staged: StagedBackbone = field(init=False, repr=False)
    _own: OwnTime = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._model = self.method
        self._precision = resolved(self.config.precision, self.device, "train.precision")
        self._statistics = Statistics(norm_buffers(self.method))
        self._staged = StagedBackbone(self.method.train(), self.schedule.stages)
        self._own = OwnTime(self.device)
        if self.world.size > 1 and not is_sharded(self.method):
            # find_unused_parameters keeps DDP from rebuilding its buckets after the first step. A rebuilt layout sums
            # gradients in another order, and a resumed run would differ from an undisturbed one in the last bits.
            self._model = DistributedDataParallel(
                self.method,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,  # or each gradient lies in memory twice, and is copied back
            )

    def fit(self, batches: Iterable[Batch], total: int, epoch_steps: int) -> None:
        """Train on `batches` (consecutive steps up to total - 1).

        Raises what `hooks.stopping` raises on a stop, TrocarError after too many non-finite steps, or if all were so.
        """
        self.method.train()
        with collected_at_fixed_steps() as collect:
            self._fit(batches, total, epoch_steps, collect)

    def _fit(self, batches: Iterable[Batch], total: int, epoch_steps: int, collect: Callable[[int], None]) -> None:
        speed = Speed(self.world.size)
        for batch in speed.counted(batches):
            progress = Progress(batch.step, total, epoch_steps)
            values = self._step(batch, progress)
            done = batch.step + 1
            stop = int(values.pop("stop"))
            if batch.step % self.hooks.log_every == 0 or done == total:
                values |= speed.values() | self._own.slowest() | peak_memory(self.device) | self._health(batch)
                self.hooks.logged(batch.step, values)
                speed.restart()
                self._own.begins()
            self.hooks.stepped(batch, done)
            if self.state.skipped > self.config.max_skipped:
                self.hooks.broken(batch, f"{self.state.skipped} steps had a non-finite loss or gradient")
            if self.state.skipped >= total:  # before anything is saved: the weights are still the first ones
                self.hooks.broken(batch, f"none of the {total} steps counted: each had a non-finite loss or gradient")
            ended = self.hooks.probed(done)  # before anything is saved: a resume doesn't look at this step again
            if stop:
                self.hooks.stopping(done, stop)
            self.hooks.save(done)
            collect(done)
            if ended:
                return

    def _step(self, batch: Batch, progress: Progress) -> dict[str, float]:
        """One optimizer step; a non-finite one is skipped by all ranks together and consumes its number."""
        self._staged.enter(progress.step)
        self._statistics.note()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.step_begins(progress)
        losses = self._backward(batch, progress)
        self._staged.gradients_ready(progress.step)
        norm = clip_gradients(self.method.parameters(), self.optim)
        self.method.gradients_ready(progress)
        finite = torch.isfinite(norm) & torch.isfinite(losses["loss"])
        stop_here = torch.full_like(norm, float(self.hooks.stop_requested()))
        refused, stop, grad_norm = agree(torch.stack([(~finite).float(), stop_here, norm.nan_to_num(torch.inf)]))
        self._own.begins()
        set_values = self.schedule.apply(self.optimizer, progress.step)
        updates: dict[str, float] = {}
        if refused:
            self.state.skipped += 1
            self.method.forget()
            self._statistics.bring_back()
        else:
            self.optimizer.step()
            updates = self.method.after_step(progress)
            # What stands still is equal on all ranks, and a mean of three equal numbers may be another one.
            average_([b for b in self._statistics.buffers if self._staged.moves(b, progress.step)])
        means = self._mean(losses) if self._is_logged(progress) else {}
        return {
            **means,
            "grad_norm": grad_norm,
            **set_values,
            **updates,
            "skipped": float(self.state.skipped),
            "stop": stop,
        }

    def _backward(self, batch: Batch, progress: Progress) -> Losses:
        parts = self.config.accumulate
        total: Losses = {}
        for micro, views in enumerate(Views.of(batch).split(parts)):
            # Noise inside the model (stochastic depth) follows from the step alone, so it needs no saving.
            torch.manual_seed(_noise_seed(self.seed, progress.step, self.world.rank, micro))
            synchronise(self.method, micro == parts - 1)
            with self._sync(last=micro == parts - 1), self._autocast():
                losses = self._model(views.to(self.device), progress)
                if micro == parts - 1:
                    self._own.ends()
                (losses["loss"] / parts).backward()
            for name, value in losses.items():
                total[name] = total.get(name, torch.zeros_like(value)) + value.detach() / parts
        return total

    def _sync(self, last: bool) -> AbstractContextManager[None]:
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return nullcontext()

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self._precision)

    def _is_logged(self, progress: Progress) -> bool:
        return progress.step % self.hooks.log_every == 0 or progress.step + 1 == progress.total

    def _mean(self, losses: Losses) -> dict[str, float]:
        values = torch.stack([losses[name].float() for name in sorted(losses)])
        average_([values])
        return dict(zip(sorted(losses), values.tolist(), strict=True))

    @torch.no_grad()
    def _health(self, batch: Batch) -> dict[str, float]:
        with self._autocast(), eagerly(self.method.exported):
            features = self.method.embed(Views.of(batch).to(self.device))
        values = torch.full((2,), torch.nan, device=features.device)
        if torch.isfinite(features).all():
            # On the host: it takes a small matrix apart faster than a GPU does.
            rank = rankme(features[:RANKME_SAMPLES].cpu())
            values = torch.stack([feature_std(features), rank.to(features.device)])
        average_([values])  # by every rank, or the others would wait
        return {"feature_std": float(values[0]), "rankme": float(values[1])}


def _noise_seed(seed: int, step: int, rank: int, micro: int) -> int:
    low, high = make_key(seed, "noise", step, rank, micro)
    return (high << 31 ^ low) & 0x7FFFFFFFFFFFFFFF
