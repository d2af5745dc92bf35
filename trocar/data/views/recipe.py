"""A view recipe -> the crop box, flip, colour, blur and solarize parameters of every view of the global batch.

Parameters are keyed per (seed, step, slot, view) with a fixed number of draws, and evaluated for the frame that was
actually delivered, so that they depend on nothing else. Distributions are those of torchvision's RandomResizedCrop,
ColorJitter, RandomGrayscale and of DINO's blur and solarize (arXiv 2104.14294, appendix, and its reference code).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import permutations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trocar.core.config import Config
from trocar.core.random import F64, I64, U32, below, make_key, uniform, words
from trocar.data.views.randaugment import MAX_LAYERS, Erasing, RandAugment
from trocar.data.views.randaugment import WORDS as _RANDAUGMENT_WORDS

MAX_FRAME = 127  # they are kept as int8
ATTEMPTS = 10  # of RandomResizedCrop, before it falls back to the centre
_CROP_WORDS = 4 * ATTEMPTS
_WORDS = _CROP_WORDS + 12
_ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)

Probability = float | list[float]
Interpolation = Literal["bicubic", "bilinear"]


class Jitter(Config):
    """ColorJitter: factors uniform in [max(0, 1 - x), 1 + x]; hue in turns, uniform in [-hue, hue]."""

    p: float = Field(default=0.8, ge=0, le=1, description="probability that a view is jittered, 0 to 1")
    brightness: float = Field(default=0.4, ge=0, description="x of a factor drawn from [max(0, 1 - x), 1 + x]")
    contrast: float = Field(default=0.4, ge=0, description="x of a factor drawn from [max(0, 1 - x), 1 + x]")
    saturation: float = Field(default=0.2, ge=0, description="x of a factor drawn from [max(0, 1 - x), 1 + x]")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="largest shift of the hue in turns, 0 to 0.5")


class ViewGroup(Config):
    """Views of one size. A probability may be one number or a list with one number per view of the group."""

    count: int = Field(ge=1, description="views of this group in a sample")
    frame: int | list[int] = Field(
        default=0, description="the frame of the sample that views are cut from: 0 the anchor, 1, 2, ... its neighbours"
    )
    size: int = Field(ge=8, description="side of the square view in pixels")
    scale: tuple[float, float] = Field(description="share of the frame's area that a crop covers, lowest and highest")
    ratio: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="width by height of a crop, lowest and highest"
    )
    interpolation: Interpolation = Field(default="bicubic", description="how a crop is resized, antialiased")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip, 0 to 1")
    jitter: Jitter = Field(default=Jitter(), description="change of brightness, contrast, saturation and hue")
    grey: Probability = Field(default=0.2, description="probability of greyscale, 0 to 1")
    blur: Probability = Field(default=0.5, description="probability of a Gaussian blur, 0 to 1")
    sigma: tuple[float, float] = Field(
        default=(0.1, 2.0), description="standard deviation of the blur in pixels of the view, lowest and highest"
    )
    solarize: Probability = Field(default=0.0, description="probability of solarization, 0 to 1")
    rand_augment: RandAugment | None = Field(
        default=None, description="random operations before the jitter; null: none"
    )
    erase: Erasing | None = Field(default=None, description="a black rectangle after all colour; null: none")

    @model_validator(mode="after")
    def _ranges(self) -> ViewGroup:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale}: expected 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {self.ratio}: expected 0 < low <= high")
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma {self.sigma}: expected 0 <= low <= high")
        for name in ("grey", "blur", "solarize"):
            values = self.per_view(name)
            if len(values) != self.count or not all(0 <= v <= 1 for v in values):
                raise ValueError(f"{name}: expected a probability, or one for each of the {self.count} views")
        if len(self.frames()) != self.count or not all(0 <= f <= MAX_FRAME for f in self.frames()):
            raise ValueError(f"frame: expected 0..{MAX_FRAME}, or one for each of the {self.count} views")
        return self

    def frames(self) -> list[int]:
        """The frame of each view of the group."""
        return self.frame if isinstance(self.frame, list) else [self.frame] * self.count

    def per_view(self, name: str) -> list[float]:
        """The probability `name` for each view of the group."""
        value = getattr(self, name)
        return list(value) if isinstance(value, list) else [float(value)] * self.count


class ViewRecipe(Config):
    """Groups of views in the order in which the method sees them; views are numbered through the groups."""

    groups: dict[str, ViewGroup] = Field(description="name of the group -> its views; they are numbered in this order")

    @model_validator(mode="after")
    def _no_frame_for_nothing(self) -> ViewRecipe:
        unused = set(range(1, self.frames)) - set(self.frame.tolist())
        if unused:
            raise ValueError(
                f"no view is cut from frame {min(unused)}, though there are views of frame {self.frames - 1}"
            )
        return self

    @property
    def frame(self) -> npt.NDArray[np.int8]:
        """int8[V]: from which frame of the sample each view is cut; 0 is the anchor."""
        return np.array([frame for group in self.groups.values() for frame in group.frames()], np.int8)

    @property
    def frames(self) -> int:
        """Number of frames F of a sample: the anchor and its neighbours."""
        return 1 + int(self.frame.max(initial=0))

    @property
    def count(self) -> int:
        """Number of views V of a sample."""
        return sum(group.count for group in self.groups.values())

    def slices(self) -> dict[str, slice]:
        """Which of the V views belong to each group."""
        result, at = {}, 0
        for name, group in self.groups.items():
            result[name] = slice(at, at + group.count)
            at += group.count
        return result


@dataclass(frozen=True)
class ViewParams:
    """Parameters of b samples with V views each.

    boxes int32[b, V, 4] (top, left, height, width in source pixels); flip bool[b, V]; colour float32[b, V, 4]
    (brightness, contrast, saturation factors, hue in turns) and order int8[b, V, 4] (which of the four is applied
    first, second, ...); grey bool[b, V]; sigma float32[b, V] in view pixels, 0 for no blur; solarize bool[b, V];
    rand_op int8[b, V, L] (codes of randaugment.OPERATIONS in order of application, 0 for none) and rand_level
    float32[b, V, L] in -1..1; erase int32[b, V, 4] (top, left, height, width in view pixels, height 0 for none);
    mask_seed uint32[b, V]; frame int8[V] (0: the anchor), of which the source pixels are.
    """

    frame: npt.NDArray[np.int8]
    boxes: npt.NDArray[np.int32]
    flip: npt.NDArray[np.bool_]
    colour: npt.NDArray[np.float32]
    order: npt.NDArray[np.int8]
    grey: npt.NDArray[np.bool_]
    sigma: npt.NDArray[np.float32]
    solarize: npt.NDArray[np.bool_]
    rand_op: npt.NDArray[np.int8]
    rand_level: npt.NDArray[np.float32]
    erase: npt.NDArray[np.int32]
    mask_seed: U32

    def views(self, which: slice) -> ViewParams:
        """The parameters of some of the views."""
        picked = {f.name: getattr(self, f.name)[:, which] for f in fields(self) if f.name != "frame"}
        return ViewParams(frame=self.frame[which], **picked)

    def samples(self, which: slice) -> ViewParams:
        """The parameters of some of the samples."""
        picked = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "frame"}
        return ViewParams(frame=self.frame, **picked)

    def assign(self, index: int, sample: ViewParams) -> None:
        """Overwrite the parameters of sample `index` with those of a single sample."""
        for f in fields(self):
            if f.name != "frame":
                getattr(self, f.name)[index] = getattr(sample, f.name)[0]


@dataclass(frozen=True)
class ViewPlan:
    """Deals the parameters of a recipe for one run."""

    recipe: ViewRecipe
    seed: int

    def params(self, step: int, slots: I64, widths: npt.NDArray[Any], heights: npt.NDArray[Any]) -> ViewParams:
        """Parameters for the given slots int64[b] of the global batch.

        widths and heights [b, F] are those of each sample's frames; [b] will do for F = 1.
        """
        V, frame, shape = self.recipe.count, self.recipe.frame, (len(slots), self.recipe.frames)
        bits = words(make_key(self.seed, "views"), _WORDS, step, slots[:, None], np.arange(V)[None])
        size = np.stack([np.reshape(heights, shape), np.reshape(widths, shape)], -1).astype(np.float64)
        parts = [
            _group_params(group, bits[:, which], size[:, frame[which]])
            | _extra_params(group, self.seed, step, slots, np.arange(which.start, which.stop))
            for (group, which) in zip(self.recipe.groups.values(), self.recipe.slices().values(), strict=True)
        ]
        joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        return ViewParams(frame=frame, **joined)


def _group_params(group: ViewGroup, bits: U32, size: F64) -> dict[str, npt.NDArray[Any]]:
    boxes = crop_boxes(bits[..., :_CROP_WORDS], size, group.scale, group.ratio)
    flip, jitter, b, c, s, h, order, grey, blur, sigma, solarize, _ = np.moveaxis(
        uniform(bits[..., _CROP_WORDS:]), -1, 0
    )
    p = {name: np.asarray(group.per_view(name))[None] for name in ("grey", "blur", "solarize")}
    low, high = group.sigma
    return {
        "boxes": boxes,
        "flip": flip < group.flip,
        "colour": _colour(group.jitter, jitter, np.stack([b, c, s, h], -1)),
        "order": _ORDERS[(order * len(_ORDERS)).astype(np.int64)],
        "grey": grey < p["grey"],
        "sigma": np.where(blur < p["blur"], low + (high - low) * sigma, 0.0).astype(np.float32),
        "solarize": solarize < p["solarize"],
        "mask_seed": bits[..., _CROP_WORDS + 11],
    }


def _extra_params(group: ViewGroup, seed: int, step: int, slots: I64, views: I64) -> dict[str, npt.NDArray[Any]]:
    """RandAugment and erasing have streams of their own: a recipe without them draws nothing for them."""
    shape = (len(slots), len(views))
    found: dict[str, npt.NDArray[Any]] = {
        "rand_op": np.zeros((*shape, MAX_LAYERS), np.int8),
        "rand_level": np.zeros((*shape, MAX_LAYERS), np.float32),
        "erase": np.zeros((*shape, 4), np.int32),
    }
    at = (step, slots[:, None], views[None])
    if group.rand_augment is not None:
        bits = words(make_key(seed, "rand_augment"), _RANDAUGMENT_WORDS, *at)
        found["rand_op"], found["rand_level"] = group.rand_augment.deal(bits)
    if group.erase is not None:
        bits = words(make_key(seed, "erase"), _CROP_WORDS + 1, *at)
        side = np.full((*shape, 2), group.size, np.float64)
        boxes = crop_boxes(bits[..., 1:], side, group.erase.scale, group.erase.ratio)
        erased = uniform(bits[..., 0]) < group.erase.p
        found["erase"] = np.where(erased[..., None], boxes, 0).astype(np.int32)
    return found


def _colour(jitter: Jitter, applied: F64, u: F64) -> npt.NDArray[np.float32]:
    strength = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
    low, high = np.maximum(0.0, 1.0 - strength), 1.0 + strength
    factors = low + (high - low) * u[..., :3]
    hue = jitter.hue * (2.0 * u[..., 3:] - 1.0)
    drawn = np.concatenate([factors, hue], -1)
    neutral = np.array([1.0, 1.0, 1.0, 0.0])
    return np.where((applied < jitter.p)[..., None], drawn, neutral).astype(np.float32)


def crop_boxes(bits: U32, size: F64, scale: tuple[float, float], ratio: tuple[float, float]) -> npt.NDArray[np.int32]:
    """RandomResizedCrop's box: the first of ten (area, log ratio) draws that fits, else the largest central crop.

    `bits` uint32[..., 40], `size` float64[..., 2] (height, width) -> int32[..., 4] (top, left, height, width).
    """
    draws = bits.reshape(*bits.shape[:-1], ATTEMPTS, 4)
    u = uniform(draws)
    height, width = size[..., 0, None], size[..., 1, None]
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * u[..., 1])
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    pick = np.argmax(fits, axis=-1)[..., None]
    h, w = np.take_along_axis(h, pick, -1)[..., 0], np.take_along_axis(w, pick, -1)[..., 0]
    offset = np.take_along_axis(draws[..., 2:], pick[..., None], -2)[..., 0, :]
    full_h, full_w = np.broadcast_arrays(size[..., 0], size[..., 1])
    drawn = fits.any(-1)
    central_h, central_w = _central(full_h, full_w, ratio)
    h, w = np.where(drawn, h, central_h), np.where(drawn, w, central_w)
    top = np.where(drawn, below(offset[..., 0], np.maximum(full_h - h + 1, 1)), (full_h - h) // 2)
    left = np.where(drawn, below(offset[..., 1], np.maximum(full_w - w + 1, 1)), (full_w - w) // 2)
    return np.stack([top, left, h, w], -1).astype(np.int32)


def _central(height: F64, width: F64, ratio: tuple[float, float]) -> tuple[F64, F64]:
    aspect = width / height
    w = np.where(aspect > ratio[1], np.rint(height * ratio[1]), width)
    h = np.where(aspect < ratio[0], np.rint(width / ratio[0]), height)
    # A side of one pixel rounds to none for ratios far from 1.
    return np.maximum(h, 1), np.maximum(w, 1)
