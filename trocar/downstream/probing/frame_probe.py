"""Probes of pooled features: k nearest neighbours, and a linear one in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor, nn

from trocar.backbones.preprocess import Preprocessing
from trocar.downstream.metrics.outcome import Floats, Outcome, resampled
from trocar.downstream.probing.probed_frames import LEAST_CASES, DecodedPixels, ProbedFrames, in_order, share_of
from trocar.downstream.protocols.base import decide, one_hot, standardise
from trocar.downstream.protocols.probes import KNN

DRAWS = 500
"""Of the bootstrap over cases."""
BATCH = 64
"""Frames at a time through the network."""
STRENGTH = 1.0
"""Of the ridge penalty, on features of variance 1: see `ridge`."""


class GatheringRanks(Protocol):
    """How a look is divided among ranks: `gather` brings [m, ...] of each to [size, m, ...] on every one."""

    @property
    def rank(self) -> int:
        """This rank's number."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def gather(self, part: Tensor, /) -> Tensor:
        """Of equal shape on every rank."""
        ...


@dataclass(frozen=True)
class Scored:
    """The headline, NaN where undefined, and its values over `DRAWS` draws of the cases, float64; none of less than
    three cases.
    """

    value: float
    draws: Tensor


@dataclass
class FrameProbe:
    """Pooled features of the training frames answer for the validation frames.

    `size`: pixels of the square input, None for what the network was made for.
    """

    name: str
    frames: ProbedFrames
    protocol: Literal["knn", "linear"]
    size: int | None = None

    def __post_init__(self) -> None:
        self._pixels = DecodedPixels(self.frames.data)

    @property
    def about(self) -> str:
        """For people."""
        return f"{self.frames.task.headline} of {self.frames.task.name} by {self.protocol}, {self.frames.about}"

    @property
    def identity(self) -> str:
        """Equal for probes whose scores can be compared."""
        return self.frames.identity(protocol=self.protocol, size=self.size)

    @property
    def draws(self) -> int:
        """How many draws of cases a score has."""
        return DRAWS if self.frames.val_cases >= LEAST_CASES else 0

    def score(self, network: nn.Module, shape: Preprocessing, spread: GatheringRanks) -> Scored | None:
        """Of a network in eval mode; rank 0's score, None on the others."""
        count = len(self.frames.data)
        rows, device = share_of(count, spread.rank, spread.size), next(network.parameters()).device
        batches = self._pixels.batches(rows, self.size or shape.size[0], BATCH)
        own = torch.cat([network(shape.normalise(images.to(device))).float() for images in batches])
        features = in_order(spread.gather(own), count).cpu().numpy().astype(np.float64)
        if spread.rank != 0:
            return None
        if not np.isfinite(features).all():
            return Scored(float("nan"), torch.full((self.draws,), torch.nan, dtype=torch.float64))
        with threadpool_limits(limits=torch.get_num_threads(), user_api="blas"):
            return self._scored(features)

    def _scored(self, features: Floats) -> Scored:
        frames, space = self.frames, self.frames.space
        train, val = standardise(features[frames.train], features[frames.val])
        targets = one_hot(self._labels[frames.train], len(space.classes))
        if self.protocol == "knn":
            scores = KNN().answer(train, targets, val, space.kind)
        else:
            mean = targets.mean(0)
            scores = val @ ridge(train, targets - mean) + mean
        truth = self._labels[frames.val].round().astype(np.int64)
        case = np.unique(frames.case[frames.val], return_inverse=True)[1].astype(np.int64)
        decided = decide(space.kind, scores)
        outcome = Outcome(truth, decided, scores, case, classes=space.classes, unscored=space.unscored)
        metric = frames.task.named[frames.task.headline].metric
        draws = resampled(metric, outcome, self.draws)
        return Scored(float(metric(outcome, None)), torch.from_numpy(draws))

    @cached_property
    def _labels(self) -> Floats:
        return self.frames.task.targets(self.frames.data)


def ridge(x: Floats, y: Floats, strength: float = STRENGTH) -> Floats:
    """W [D, K] of the least mean square of y - x W plus `strength` |W|^2, for centred x [n, D] and y [n, K].

    In closed form, (x'x / n + s)^-1 x'y / n, or of fewer samples than dimensions x' (x x' / n + s)^-1 y / n.
    """
    count, width = x.shape
    if count >= width:
        return np.asarray(np.linalg.solve(x.T @ x / count + strength * np.eye(width), x.T @ y / count))
    return np.asarray(x.T @ np.linalg.solve(x @ x.T / count + strength * np.eye(count), y / count))
