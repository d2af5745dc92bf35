"""What a self-supervised method is: what it is given at each step, its views, its pure loss, its update after an
accepted step.

Beside it, the running statistics of normalisation layers, and what they were before a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn
from typing_extensions import override

from trocar.core.config import Config
from trocar.core.registry import ByName, Registry
from trocar.data.loading.batch import Batch
from trocar.data.selection.neighbours import NeighbourSource
from trocar.data.views.recipe import ViewRecipe
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.transformer_blocks import packed_features, packs
from trocar.ssl.run.auto_values import Advice, DataSize, choose, warning

if TYPE_CHECKING:  # it knows what a method is
    from trocar.ssl.blocks.anchor import Anchor


@dataclass(frozen=True)
class Progress:
    """Where the run stands: `step` of `total`, and how many steps make an epoch of the selection."""

    step: int
    total: int
    epoch_steps: int


@dataclass(frozen=True)
class Views:
    """What one rank sees of a (micro-)batch of b samples.

    `crops` {group: float32[b, n, 3, S, S]}, normalised; `rows` int64[b], the catalog rows of the anchor frames, by
    which equal frames are told; `mask_seed` uint32[b, V] on the host, a number per view from which masks are drawn.
    """

    crops: dict[str, Tensor]
    rows: Tensor
    mask_seed: npt.NDArray[np.uint32]

    @staticmethod
    def of(batch: Batch) -> Views:
        """The views of a rank's batch."""
        return Views(batch.views, torch.from_numpy(batch.rows), batch.params.mask_seed)

    def __getitem__(self, group: str) -> Tensor:
        return self.crops[group]

    @property
    def first(self) -> Tensor:
        """The first view of each sample, [b, 3, S, S]."""
        return next(iter(self.crops.values()))[:, 0]

    def split(self, parts: int) -> list[Views]:
        """Micro-batches, in order."""
        pieces = {name: x.chunk(parts) for name, x in self.crops.items()}
        rows, seeds = self.rows.chunk(parts), np.array_split(self.mask_seed, parts)
        return [Views({name: x[i] for name, x in pieces.items()}, rows[i], seeds[i]) for i in range(parts)]

    def to(self, device: torch.device) -> Views:
        """The same on a device; the host does not wait for the copy."""
        moved = {name: x.to(device, non_blocking=True) for name, x in self.crops.items()}
        return Views(moved, self.rows.to(device, non_blocking=True), self.mask_seed)


def by_view(
    network: Callable[[Tensor], Tensor],
    groups: Iterable[Tensor],
    head: Callable[[Tensor], Tensor] = lambda features: features,
) -> Tensor:
    """Outputs [V, b, ...] of all views of the groups [b, n, 3, S, S], in order.

    Views of one size pass network and head together; a network that packs views takes those of all sizes in one pass.
    """
    given = list(groups)
    out: list[list[Tensor]] = [[] for _ in given]
    by_size = [[i for i, x in enumerate(given) if x.shape[-1] == s] for s in dict.fromkeys(x.shape[-1] for x in given)]
    views = [torch.cat([given[i].transpose(0, 1) for i in same]) for same in by_size]
    flat = [x.flatten(0, 1) for x in views]
    features = iter(packed_features(network, flat)) if packs(network) else map(network, flat)
    for same, x, feature in zip(by_size, views, features, strict=True):
        output = head(feature)
        counts = [given[i].shape[1] for i in same]
        parts = torch.split(output.view(*x.shape[:2], *output.shape[1:]), counts)
        for i, part in zip(same, parts, strict=True):
            out[i].append(part)
    return torch.cat([part for parts in out for part in parts])


Losses = dict[str, Tensor]


class MethodConfig(Config, ABC):
    """Base of the configurations of all methods. A subclass has `name: Literal["..."]`."""

    name: str = Field(description="the name by which a file asks for it")

    @abstractmethod
    def recipe(self) -> ViewRecipe:
        """The views the method wants to see; the first group's size is that of the exported backbone's input."""

    def neighbour_source(self) -> NeighbourSource | None:
        """Where a sample's other frames come from, if views are cut from any."""
        return None

    @abstractmethod
    def build(self, networks: Networks) -> Method:
        """The method with fresh networks. Everything random is drawn from torch's generator, which is seeded."""

    def advice(self, data: DataSize) -> list[Advice]:
        """What would suit this much data: what `auto` stands for, and what is wrong with what was given."""
        return []

    def resolved(self, data: DataSize) -> MethodConfig:
        """The same with a value in the place of each `auto`."""
        return choose(self, self.advice(data))

    def warnings(self, data: DataSize) -> list[str]:
        """A line per value that makes no sense for this much data, with the reason and one that would suit."""
        return [warning("method", item) for item in self.advice(data) if item.wrong]


METHODS: Registry[type[MethodConfig]] = Registry(
    "methods",
    "method",
    package="trocar.ssl.methods",
    accepts=lambda thing: isinstance(thing, type) and issubclass(thing, MethodConfig),
    expected="a subclass of MethodConfig whose `name` has a default",
)
"""The configuration class of every method, by the name that a file asks for it with."""

AnyMethod = Annotated[SerializeAsAny[MethodConfig], ByName(METHODS)]
"""The type of a field that holds the configuration of any method."""


class Method(nn.Module, ABC):
    """Base of all methods. `forward` is `loss`, so that DistributedDataParallel can wrap the method as it is.

    `feature_anchor` adds a loss of its own to that, if the run has one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature_anchor: Anchor | None = None

    @abstractmethod
    def loss(self, views: Views, progress: Progress) -> Losses:
        """{"loss": scalar, ...scalars to log} of one micro-batch. Changes no state that outlives the step."""

    @abstractmethod
    def after_step(self, progress: Progress) -> dict[str, float]:
        """Update teacher, centre, queue. Called only for an accepted step. Returns scalars to log."""

    @property
    @abstractmethod
    def backbones(self) -> list[nn.Module]:
        """All networks that see views, the trained one first."""

    @property
    def exported(self) -> nn.Module:
        """The timm backbone that is exported and evaluated."""
        return self.backbones[0]

    @property
    def average(self) -> nn.Module | None:
        """The moving average of the backbone that trains, if the method has one: by default what it exports instead."""
        return self.exported if self.exported is not self.backbones[0] else None

    @torch.no_grad()
    def embed(self, views: Views) -> Tensor:
        """Features float32[b, D] of the first view of each sample, for label-free health metrics."""
        network = self.exported
        was_training = network.training
        network.eval()
        features: Tensor = network(views.first).float()
        network.train(was_training)
        return features

    def gradients_ready(self, progress: Progress) -> None:
        """Edit gradients after clipping and before the optimizer, such as freezing the last layer."""

    def step_begins(self, progress: Progress) -> None:
        """Called before the first loss of each step, also of one that is not accepted in the end."""
        self.forget()
        if self.feature_anchor is not None:
            self.feature_anchor.refresh(self, progress)

    def forget(self) -> None:
        """Drop what `loss` noted for `after_step`: the step was not accepted, or a new one begins."""

    def reference_loss(self) -> float | None:
        """The loss of a collapsed, uniform output (ln K), if the method has one.

        Of `loss`, or of what is logged as `dino_loss` by a method that adds other losses to it.
        """
        return None

    def identity(self) -> dict[str, str]:
        """What of the networks determines the result but stands in no configuration, such as a teacher's weights."""
        return {}

    @override
    def forward(self, views: Views, progress: Progress) -> Losses:
        if self.feature_anchor is None:
            return self.loss(views, progress)
        return self.feature_anchor.losses(self, views, progress)


def norm_buffers(module: nn.Module) -> Iterator[Tensor]:
    """Running statistics that a forward pass in train mode changes."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            yield from child.buffers(recurse=False)


def freeze_gradients(module: nn.Module) -> None:
    """Take the gradients of a module away: the optimizer then leaves it as it is."""
    for parameter in module.parameters():
        parameter.grad = None


class Statistics:
    """Buffers that a forward pass changes in place, with room for their values before it.

    Copied in one go for each dtype: a network has hundreds, each of which would be a kernel of its own on a GPU.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self.buffers = list(buffers)
        kinds = dict.fromkeys(buffer.dtype for buffer in self.buffers)
        self._now = [[buffer for buffer in self.buffers if buffer.dtype == kind] for kind in kinds]
        self._before = [[torch.empty_like(buffer) for buffer in group] for group in self._now]

    @torch.no_grad()
    def note(self) -> None:
        """Remember the values of now."""
        for before, now in zip(self._before, self._now, strict=True):
            torch._foreach_copy_(before, now)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Take the values that were noted."""
        for before, now in zip(self._before, self._now, strict=True):
            torch._foreach_copy_(now, before)
