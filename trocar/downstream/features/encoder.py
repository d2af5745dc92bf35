"""What a protocol may ask of one backbone on one data set: frozen features, pixels, or the network itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from trocar.backbones.embed import usual_batch
from trocar.backbones.precision import Precision, Wanted, resolved
from trocar.backbones.preprocess import describe_backbone
from trocar.downstream.features.feature_cache import Features, cached_features, weights_hash
from trocar.downstream.features.frame_cache import FrameCache, Pixels


@dataclass(frozen=True)
class Encoder:
    """`network` makes the backbone with its weights, anew each time; None for a baseline, whose features
    `plain` makes. `size`: pixels of the square input. `batch`: frames at a time through the frozen network (None:
    what fits). `name`: what errors call it. `precision`: what networks compute in. `workers`: processes that crop for
    one that trains on a GPU (None: what the machine has).
    """

    frames: FrameCache
    size: int = 0
    network: Callable[[], nn.Module] | None = None
    plain: Callable[[FrameCache], Features] | None = None
    batch: int | None = None
    device: str = "cpu"
    name: str = "the backbone"
    precision: Precision = "float32"
    workers: int | None = None

    @cached_property
    def features(self) -> Features:
        """float32 [n, D] of all frames in the order of the table; of a network, pooled and frozen, from the cache."""
        if self.network is None:
            assert self.plain is not None
            return self.plain(self.frames)
        return cached_features(
            self.network(),
            self.frames,
            self.size,
            batch=self.batch,
            device=self.device,
            precision=self.precision,
            whose=self.name,
        )

    @cached_property
    def identity(self) -> str:
        """Of the weights, or of what makes a baseline's features."""
        if self.network is None:
            assert self.plain is not None
            return f"{self.plain.__module__}.{self.plain.__qualname__}"
        model = self.network()
        return weights_hash(model, describe_backbone(model))

    @property
    def frames_at_once(self) -> int:
        """Frames at a time through the frozen network, where they fit."""
        return self.batch or usual_batch(self.device)

    def computes_in(self, wanted: Wanted, option: str) -> Precision:
        """What a protocol's own setting `option` asks for; `auto` is what the evaluation computes in. Raises
        ConfigError for what the device doesn't have.
        """
        return self.precision if wanted == "auto" else resolved(wanted, torch.device(self.device), option)

    @property
    def pixels(self) -> Pixels:
        """uint8 [n, size, size, 3] of all frames in the order of the table, memory-mapped."""
        return self.frames.get(self.size)
