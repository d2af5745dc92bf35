"""Whole cases as sequences, and what a temporal head makes of one: features in, one set of logits per stage out.

With the checks and the standardisation that sequences go through, and the layers that heads share: dilated
convolutions, and attention in a window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn
from typing_extensions import override

from trocar.core.config import Config
from trocar.core.registry import ByName, Registry
from trocar.downstream.labels import Kind
from trocar.errors import TrocarError

Features = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Sequence:
    """One case in the order of time.

    `features` float32 [T, D] (a float16 cache is fine, it is computed with in float32); `targets` int64 [T],
    a class index or -1 for unlabelled, or [T, K] in 0 .. 1 with negative numbers for unlabelled entries;
    `time_s` float64 [T], strictly increasing.

    Unlabelled frames should stay in: they are context for their neighbours and cost nothing in the loss.
    Frames that were not extracted are simply not there; heads count frames, not seconds, so a gap is a cut to
    them.
    """

    case: str
    features: Numbers
    targets: Numbers
    time_s: Numbers

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Standard:
    """(x - mean) * scale per feature dimension, float32 [D] each."""

    mean: Features
    scale: Features

    def __call__(self, features: Numbers) -> Features:
        """[T, D] -> float32 [T, D]."""
        found: Features = (features.astype(np.float32) - self.mean) * self.scale
        return found


def fit_standard(sequences: Many[Sequence]) -> Standard:
    """Mean 0 and standard deviation 1 over all frames of `sequences`, labelled or not; constant dimensions
    become 0.

    Sums in float64, case by case: a concatenation of a large data set would not fit beside it.
    """
    count = sum(len(s) for s in sequences)
    mean = sum(s.features.sum(0, dtype=np.float64) for s in sequences) / count
    squares = sum(np.square(s.features.astype(np.float64) - mean).sum(0) for s in sequences)
    deviation = np.sqrt(squares / count)
    # A spread below float32's rounding of the value itself is no signal, and would be blown up to one.
    varies = deviation > 1e-7 * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    return Standard(mean.astype(np.float32), scale.astype(np.float32))


def check_features(sequence: Sequence, dimensions: int | None = None) -> None:
    """Raises TrocarError unless the features are finite [T, D] with T >= 1, in the order of time."""
    features, name = sequence.features, f"case {sequence.case!r}"
    if features.ndim != 2 or len(features) < 1:
        raise TrocarError(
            f"{name}: features are {list(features.shape)}, expected [frames, dimensions], 1 frame or more"
        )
    if dimensions is not None and features.shape[1] != dimensions:
        raise TrocarError(
            f"{name}: {features.shape[1]} feature dimensions where the training has {dimensions}: "
            "all cases need the features of the same backbone"
        )
    if sequence.time_s.shape != (len(features),):
        raise TrocarError(f"{name}: {len(features)} frames but times of shape {list(sequence.time_s.shape)}")
    if not (np.diff(sequence.time_s) > 0).all():
        row = int(np.argmin(np.diff(sequence.time_s) > 0)) + 1
        raise TrocarError(
            f"{name}: frame {row} (t = {sequence.time_s[row]:g} s) is not later than the one before; sort by time"
        )
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise TrocarError(
            f"{name}: the features of {int((~finite).sum())} frames are NaN or infinite, the first is frame {row} "
            f"(t = {sequence.time_s[row]:g} s); look at that frame and at the backbone, then extract again"
        )


def check_targets(sequence: Sequence, kind: Kind, classes: int) -> None:
    """Raises TrocarError unless the targets have the shape and the range of their kind."""
    targets, frames = sequence.targets, len(sequence)
    expected = (frames,) if kind == "multiclass" else (frames, classes)
    if targets.shape != expected:
        raise TrocarError(
            f"case {sequence.case!r}: targets are {list(targets.shape)}, expected {list(expected)} for {kind} labels"
        )
    highest = classes - 1 if kind == "multiclass" else 1
    if not (targets <= highest).all():
        raise TrocarError(
            f"case {sequence.case!r}: a target is {targets.max()}, the largest allowed is {highest} "
            f"({classes} classes, {kind}; unlabelled is -1)"
        )


Optimiser = Literal["adam", "adamw"]


@dataclass(frozen=True)
class HeadRecipe:
    """How a head is trained. `weight_decay` is L2 in the gradient for adam, decoupled for adamw.

    `feature_dropout` is the share of feature dimensions set to zero over a whole case; `clip` the largest
    norm of the gradient, 0 for none.
    """

    optimiser: Optimiser
    lr: float
    epochs: int
    weight_decay: float = 0.0
    feature_dropout: float = 0.0
    clip: float = 0.0


class HeadConfig(Config, ABC):
    """Base of the settings of all heads. A subclass has `name: Literal["..."]`.

    `recipe`: how the source of the defaults trains the head.
    """

    name: str = Field(description="the name by which a file asks for it")
    causal: bool = Field(
        description="true: a frame's prediction uses this frame and earlier ones alone (online); false: later ones "
        "too (offline)",
    )
    recipe: ClassVar[HeadRecipe]

    @abstractmethod
    def build(self, dimensions: int, classes: int, kind: Kind) -> Head:
        """The head for features [T, dimensions], with fresh weights from torch's generator."""


HEADS: Registry[type[HeadConfig]] = Registry(
    "heads",
    "temporal head",
    package="trocar.downstream.temporal.heads",
    accepts=lambda thing: isinstance(thing, type) and issubclass(thing, HeadConfig),
    expected="a subclass of HeadConfig whose `name` has a default",
)
"""The configuration class of every temporal head, by the name that a file asks for it with."""

AnyHead = Annotated[SerializeAsAny[HeadConfig], ByName(HEADS)]
"""The type of a field that holds the configuration of any temporal head."""


class Head(nn.Module, ABC):
    """Base of all heads. `causal` is True for online heads: output t does not depend on frames after t."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    @abstractmethod
    def stages(self, x: Tensor) -> list[Tensor]:
        """float32 [1, D, T] -> logits [1, K, T] of every stage, the last one is the prediction."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """One case, float32 [1, D, T] or [T, D] -> logits [T, K] of every stage. Raises TrocarError for other
        shapes.
        """
        if x.ndim == 2:
            x = x.T.unsqueeze(0)
        if x.ndim != 3 or x.shape[0] != 1 or x.shape[2] < 1:
            raise TrocarError(f"a temporal head takes one case [1, D, T] or [T, D], not {list(x.shape)}")
        return [logits[0].T for logits in self.stages(x)]


def probabilities(logits: Tensor, kind: Kind, dim: int) -> Tensor:
    """Softmax over `dim` for one label a frame, a sigmoid per class for several."""
    return logits.softmax(dim) if kind == "multiclass" else torch.sigmoid(logits)


class DilatedConvolution(nn.Module):
    """Convolution over time that keeps the length: [1, C, T] -> [1, C, T].

    Causal: tap k of K reaches (K - 1 - k) * dilation frames back. Centred otherwise, which takes an odd K.
    Frames before the first and after the last are zeros.
    """

    def __init__(self, maps: int, kernel: int, dilation: int, causal: bool) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.conv = nn.Conv1d(maps, maps, kernel, dilation=dilation)

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, self.padding))
        return result


class DilatedResidual(nn.Module):
    """x + dropout(conv 1x1(relu(dilated conv(x)))), the layer of MS-TCN (arXiv:1903.01945,
    `DilatedResidualLayer`).
    """

    def __init__(self, maps: int, kernel: int, dilation: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.dilated = DilatedConvolution(maps, kernel, dilation, causal)
        self.mix = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    @override
    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.dropout(self.mix(torch.relu(self.dilated(x))))
        return x + residual


class DilatedStage(nn.Sequential):
    """1x1 in, `layers` dilated residual layers with dilation 1, 2, 4, ..., 1x1 out: [1, D, T] -> [1, K, T]."""

    def __init__(
        self, inputs: int, classes: int, *, layers: int, maps: int, kernel: int, causal: bool, dropout: float
    ) -> None:
        body = [DilatedResidual(maps, kernel, 2**i, causal, dropout) for i in range(layers)]
        super().__init__(nn.Conv1d(inputs, maps, 1), *body, nn.Conv1d(maps, classes, 1))


SMALLEST_BLOCK = 64  # below it the many small products cost more than the keys that are masked


def window_attention(query: Tensor, key: Tensor, value: Tensor, before: int, after: int) -> Tensor:
    """Softmax attention in which frame t sees the frames t - before .. t + after that exist; [H, T, C] in and
    out.

    The queries are cut in blocks, each with the keys its frames can see, so memory grows with T * (before +
    after), not with T^2. `key` has the query's C, `value` any.
    """
    frames = query.shape[-2]
    before, after = min(before, frames - 1), min(after, frames - 1)
    block = min(max(before + after + 1, SMALLEST_BLOCK), frames)
    blocks = -(-frames // block)
    filler = blocks * block - frames
    queries = F.pad(query, (0, 0, 0, filler)).reshape(*query.shape[:-2], blocks, block, query.shape[-1])
    keys, values = (_spans(x, block, before, after + filler, block + before + after) for x in (key, value))
    allowed = _allowed(frames, blocks, block, before, after, query.device)
    found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
    return found.flatten(-3, -2)[..., :frames, :]


def _spans(x: Tensor, block: int, before: int, behind: int, span: int) -> Tensor:
    """[H, T, C] -> [H, blocks, span, C]: for every block its own frames and those around it, zeros outside
    the case.
    """
    return F.pad(x, (0, 0, before, behind)).unfold(-2, span, block).transpose(-1, -2)


def _allowed(frames: int, blocks: int, block: int, before: int, after: int, device: torch.device) -> Tensor:
    """bool [blocks, block, span]: may this query see this key?

    Each query has its own window: in the reference code of ASFormer all queries of a block share the union of
    their windows. Queries that only fill the last block may look at anything: in torch before 2.5 a row without
    a key was NaN, and so was its gradient.
    """
    row = torch.arange(block, device=device)
    column = torch.arange(block + before + after, device=device)
    start = torch.arange(blocks, device=device)[:, None] * block
    offset = column[None, :] - row[:, None]
    window = (offset >= 0) & (offset <= before + after)
    position = start + column - before
    exists = (position >= 0) & (position < frames)
    fills = start + row >= frames
    return window & exists[:, None, :] | fills[:, :, None]
