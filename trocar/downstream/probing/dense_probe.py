"""A linear probe of masks on a frozen feature map of stride 8 or 16, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocar.backbones.preprocess import Preprocessing
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.metrics.outcome import Ints, SegmentationOutcome, confusions, resampled
from trocar.downstream.probing.frame_probe import DRAWS, GatheringRanks, Scored
from trocar.downstream.probing.probed_frames import LEAST_CASES, DecodedPixels, ProbedFrames, in_order, share_of
from trocar.downstream.segmentation.encoder import MapLayout, SegmentationEncoder
from trocar.errors import ConfigError

FINEST, COARSEST = 8, 16
"""Strides in pixels that the map may have; of several the coarsest."""
STRENGTH = 0.01
"""Of the ridge penalty, on channels of variance 1: there are many more cells than channels."""
BATCH = 16
"""Frames at a time through the network."""


@dataclass
class DenseProbe:
    """Cells of the training frames' maps answer for the validation frames' masks.

    A cell's target is the share of each class among its scored pixels. Predictions are enlarged to the input's size and
    compared there with the masks, brought to that size. `size`: pixels of the square input, None for what the network
    was made for.
    """

    name: str
    frames: ProbedFrames
    size: int | None = None
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._pixels = DecodedPixels(self.frames.data)

    @property
    def about(self) -> str:
        """For people."""
        return f"{self.frames.task.headline} of {self.frames.task.name} by dense, {self.frames.about}"

    @property
    def identity(self) -> str:
        """Equal for probes whose scores can be compared."""
        return self.frames.identity(protocol="dense", size=self.size)

    @property
    def draws(self) -> int:
        """How many draws of cases a score has."""
        return DRAWS if self.frames.val_cases >= LEAST_CASES else 0

    def score(self, network: nn.Module, shape: Preprocessing, spread: GatheringRanks) -> Scored | None:
        """Of a network in eval mode; rank 0's score, None on the others.

        Raises ConfigError for a network without a map of stride 8 to 16.
        """
        outcome = self.outcome(network, shape, spread)
        if spread.rank != 0:
            return None
        metric = self.frames.task.named[self.frames.task.headline].metric
        return Scored(float(metric(outcome, None)), torch.from_numpy(resampled(metric, outcome, self.draws)))

    def outcome(self, network: nn.Module, shape: Preprocessing, spread: GatheringRanks) -> SegmentationOutcome:
        """Confusions of the scored frames, in their order; the same on all ranks. Raises as `score`."""
        encoder = map_encoder(network, self.name)
        size = self.size or shape.size[0]
        weight = self._fit(encoder, shape, size, spread)
        rows = self.frames.val[share_of(len(self.frames.val), spread.rank, spread.size)]
        found = [
            torch.from_numpy(self._confusions(weight, maps, masks, size))
            for maps, masks in self._maps(encoder, shape, size, rows)
        ]
        device = weight.device
        counts = in_order(spread.gather(torch.cat(found).to(device)), len(self.frames.val)).cpu().numpy()
        space = self.frames.space
        case = np.unique(self.frames.case[self.frames.val], return_inverse=True)[1].astype(np.int64)
        return SegmentationOutcome(counts, case, space.classes, background=space.background)

    def _fit(self, encoder: SegmentationEncoder, shape: Preprocessing, size: int, spread: GatheringRanks) -> Tensor:
        """[C + 1, K] on the device, float64: weights of the channels, and the offset last."""
        classes, moments = len(self.frames.space.classes), None
        rows = self.frames.train[spread.rank :: spread.size]
        if not len(rows):  # more ranks than frames: its part is of no weight, but its shape is asked for
            rows = self.frames.train[:1]
        used = 1.0 if spread.rank < len(self.frames.train) else 0.0
        for maps, masks in self._maps(encoder, shape, size, rows):
            cells = maps.flatten(2).transpose(1, 2).flatten(0, 1).double()
            target, scored = cell_targets(masks, classes, (maps.shape[2], maps.shape[3]))
            cells = torch.cat([cells, cells.new_ones(len(cells), 1)], 1)
            weighted = cells * (used * scored.to(cells.device))[:, None]
            joint = torch.cat([cells, target.to(cells.device)], 1)
            part = weighted.T @ joint
            moments = part if moments is None else moments + part
        assert moments is not None
        total = spread.gather(moments).sum(0)
        return solve_moments(total, classes)

    def _maps(
        self, encoder: SegmentationEncoder, shape: Preprocessing, size: int, rows: Ints
    ) -> list[tuple[Tensor, Tensor]]:
        """([b, C, h, w] on the device, masks uint8 [b, size, size]) of the rows, batch by batch."""
        device = next(encoder.parameters()).device
        masks = torch.stack([self._mask(int(row), size) for row in rows])
        images = self._pixels.batches(rows, size, BATCH)
        return [
            (encoder(shape.normalise(x.to(device)))[0][0].float(), mask)
            for x, mask in zip(images, torch.split(masks, BATCH), strict=True)
        ]

    def _mask(self, row: int, size: int) -> Tensor:
        if (row, size) not in self._masks:
            mask = torch.from_numpy(self.frames.data.mask(self.frames.space, row))[None, None]
            self._masks[row, size] = F.interpolate(mask, (size, size), mode="nearest-exact")[0, 0]
        return self._masks[row, size]

    def _confusions(self, weight: Tensor, maps: Tensor, masks: Tensor, size: int) -> Ints:
        scores = torch.einsum("bchw,ck->bkhw", maps.double(), weight[:-1]) + weight[-1][:, None, None]
        large = F.interpolate(scores.float(), (size, size), mode="bilinear", align_corners=False)
        predicted = large.argmax(1).to(torch.uint8).cpu().numpy()
        return confusions(masks.numpy(), predicted, weight.shape[1])


def map_encoder(network: nn.Module, who: str) -> SegmentationEncoder:
    """What gives the coarsest map of stride 8 to 16; the network itself stays as it is.

    Raises ConfigError for a network without one.
    """
    info = getattr(network, "feature_info", None)
    strides = [int(entry["reduction"]) for entry in info or ()]
    fitting = [stride for stride in strides if FINEST <= stride <= COARSEST]
    if not fitting or not hasattr(network, "forward_intermediates"):
        found = ", ".join(map(str, dict.fromkeys(strides))) or "none"
        raise ConfigError(
            f"probe {who}: dense needs a feature map of stride {FINEST} to {COARSEST} (timm's forward_intermediates), "
            f"and {type(network).__name__} has: {found}; take protocol knn or linear, with a task that has no masks"
        )
    stride = max(fitting)
    index = max(place for place, one in enumerate(strides) if one == stride)
    patch = stride if len(set(strides)) == 1 else None
    return SegmentationEncoder(network, MapLayout((index,), patch), last=True, norm=True, freeze=False)


def cell_targets(masks: Tensor, classes: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks uint8 [b, S, S] -> the share of each class among the scored pixels of every cell, float64 [b h w, K], and
    the share of its pixels that are scored, float64 [b h w].
    """
    scored = (masks != IGNORED_PIXEL).double()
    onehot = F.one_hot(masks.long().clamp(max=classes - 1), classes).double() * scored[..., None]
    shares = F.adaptive_avg_pool2d(onehot.permute(0, 3, 1, 2), grid)
    weight = F.adaptive_avg_pool2d(scored[:, None], grid)
    shares = shares / weight.clamp(min=1e-12)
    return shares.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten()


def solve_moments(moments: Tensor, classes: int, strength: float = STRENGTH) -> Tensor:
    """Weighted sums [C + 1, C + 1 + K] of (channels, 1) x (channels, 1, targets) -> the ridge weights [C + 1, K].

    Channels are standardised first, so that the penalty `strength` |W|^2 on the mean square is the same for all of
    them; the offset is not penalised. Raises ConfigError where nothing is scored.
    """
    width = len(moments) - 1
    total = moments[width, width]
    if total <= 0:
        raise ConfigError("probe: no pixel of the training masks is scored")
    mean, target = moments[width, :width] / total, moments[width, width + 1 :] / total
    covariance = moments[:width, :width] / total - torch.outer(mean, mean)
    cross = moments[:width, width + 1 :] / total - torch.outer(mean, target)
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.where(deviation > 1e-8 * (mean.abs() + 1e-8), 1 / deviation.clamp(min=1e-300), 0.0)
    penalised = scale[:, None] * covariance * scale + strength * torch.eye(
        width, dtype=moments.dtype, device=moments.device
    )
    weight = scale[:, None] * torch.linalg.solve(penalised, scale[:, None] * cross)
    return torch.cat([weight, (target - mean @ weight)[None]])
