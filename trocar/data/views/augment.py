"""uint8 crops -> augmented, normalised float views. One module for every backend, batched, on any device.

Order of operations: flip, RandAugment, colour jitter, grey, blur, solarize, erase, normalise. Deviations from
torchvision, both from making jitter one affine map per view: hue is a rotation of the chroma plane of YIQ rather than a
shift in HSV, and values are clamped once after jitter rather than after each of its four operations.

There are two ways through the same operations. On a CPU each view gets what its parameters ask for and nothing else,
one sample at a time, so that its bits depend on no other sample. On a GPU the whole group runs through every operation
of its recipe, with neutral parameters where a view has none: no shape and no branch depends on the data, nothing waits
for the device, and `torch.compile` makes it one graph per group. RandAugment is the exception: which view draws which
operation is known on the host, so each operation gets the views that drew it, between two graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from trocar.data.views.pixel_ops import (
    Compiler,
    Fixed,
    Run,
    apply_maps,
    as_it_is,
    blur,
    blur_view,
    colour_maps,
    constant,
    radius_of,
    sent,
)
from trocar.data.views.randaugment import apply_code, apply_draws_, draws
from trocar.data.views.recipe import ViewGroup, ViewParams, ViewRecipe

SOLARIZE_FROM = 127.5 / 255

COMPILER = Compiler()
"""What makes the views of a pretraining run on a GPU, in this process."""


@dataclass(frozen=True)
class Dealt:
    """The parameters of n views as tensors on the device of their crops; fields as in ViewParams."""

    flip: Tensor
    colour: Tensor
    order: Tensor
    grey: Tensor
    sigma: Tensor
    solarize: Tensor
    erase: Tensor

    @staticmethod
    def of(params: ViewParams, device: torch.device) -> Dealt:
        """From the host's arrays [b, V, ...] to tensors [b V, ...]; on a GPU without waiting for the copy."""
        return Dealt(**{field.name: sent(_by_view(getattr(params, field.name)), device) for field in fields(Dealt)})


def augment(
    crops: dict[str, Tensor],
    params: ViewParams,
    recipe: ViewRecipe,
    mean: Sequence[float],
    std: Sequence[float],
    run: Run = as_it_is,
) -> dict[str, Tensor]:
    """{group: uint8[b, n, 3, S, S]} -> {group: float32[b, n, 3, S, S]}, normalised by `mean` and `std` (of 0..1).

    On a GPU by `run`: COMPILER pays where many batches have the same shape. On a CPU `run` is not used.
    """
    device = next(iter(crops.values())).device
    scaling = constant((tuple(mean), tuple(std)), device)[..., None, None]
    if device.type == "cpu":
        return _sample_by_sample(crops, params, recipe, scaling)
    out = {}
    for (name, which), group in zip(recipe.slices().items(), recipe.groups.values(), strict=True):
        views = augment_batch(crops[name].flatten(0, 1), params.views(which), group, scaling, run)
        out[name] = views.view(crops[name].shape)
    return out


def augment_batch(crops: Tensor, params: ViewParams, group: ViewGroup, scaling: Tensor, run: Run = as_it_is) -> Tensor:
    """All operations of a group's recipe on its views: uint8[b n, 3, S, S] -> float32[b n, 3, S, S].

    `params` are those of b samples with the group's n views each; `scaling` float32[2, 3, 1, 1] holds mean and std.
    The host waits for nothing. Float32 throughout, whatever is allowed to matrix products (TF32): there are none.
    """
    device = crops.device
    dealt, fixed = Dealt.of(params, device), Fixed.on(device)
    # A recipe that blurs or solarizes no view needn't compute it for all of them.
    reach = radius_of(group.sigma[1], group.size) if any(group.per_view("blur")) else 0
    steps = (reach, any(group.per_view("solarize")), group.erase is not None)
    if group.rand_augment is None:
        return run(_whole, crops, dealt, fixed, scaling, *steps)
    x = run(_mirrored, crops, dealt.flip)
    apply_draws_(x, draws(_by_view(params.rand_op), _by_view(params.rand_level), device))
    return run(_coloured, x, dealt, fixed, scaling, *steps)


def _whole(
    crops: Tensor, dealt: Dealt, fixed: Fixed, scaling: Tensor, reach: int, solarize: bool, erase: bool
) -> Tensor:
    return _coloured(_mirrored(crops, dealt.flip), dealt, fixed, scaling, reach, solarize, erase)


def _mirrored(crops: Tensor, flip: Tensor) -> Tensor:
    """uint8[n, 3, S, S] -> float32[n, 3, S, S] in 0..1, flipped where `flip` bool[n] says so."""
    x = crops.float() / 255
    return torch.where(_each(flip), x.flip(-1), x)


def _coloured(
    x: Tensor, dealt: Dealt, fixed: Fixed, scaling: Tensor, reach: int, solarize: bool, erase: bool
) -> Tensor:
    """Colour, blur that reaches `reach` pixels, solarize and erase if the recipe does, normalise."""
    matrix, offset = colour_maps(x.mean((-2, -1)), dealt.colour, dealt.order, dealt.grey, fixed)
    x = apply_maps(x, matrix, offset)
    if reach:
        x = blur(x, dealt.sigma, reach)
    if solarize:
        x = torch.where(_each(dealt.solarize) & (x >= SOLARIZE_FROM), 1 - x, x)
    if erase:
        x = torch.where(rectangles(dealt.erase, x.shape[-1]), 0.0, x)
    return (x - scaling[0]) / scaling[1]


def _sample_by_sample(
    crops: dict[str, Tensor], params: ViewParams, recipe: ViewRecipe, scaling: Tensor
) -> dict[str, Tensor]:
    """The same on a CPU, skipping what a view doesn't ask for."""
    out = {name: torch.empty(x.shape, dtype=torch.float32) for name, x in crops.items()}
    for index in range(len(params.flip)):
        sample = params.samples(slice(index, index + 1))
        dealt = Dealt.of(sample, torch.device("cpu"))
        moved = {name: _moved(crops[name][index], sample.views(which)) for name, which in recipe.slices().items()}
        mean = torch.cat([x.mean((-2, -1)) for x in moved.values()])
        matrix, offset = colour_maps(mean, dealt.colour, dealt.order, dealt.grey)
        for name, which in recipe.slices().items():
            done = out[name][index]
            flat = done.view(len(done), 3, -1)
            torch.baddbmm(offset[which], matrix[which], moved[name].flatten(2), out=flat).clamp_(0, 1)
            _finish(done, dealt, which.start)
            done.sub_(scaling[0]).div_(scaling[1])
    return out


def _moved(crops: Tensor, params: ViewParams) -> Tensor:
    """Flip and RandAugment of one sample's views of a group: uint8[n, 3, S, S] -> float32 in 0..1."""
    x = crops.float().div_(255)
    for view, flip, codes, levels in zip(x, params.flip[0], params.rand_op[0], params.rand_level[0], strict=True):
        if flip:
            view.copy_(view.flip(-1))
        for layer, code in enumerate(codes.tolist()):
            if code:
                level = torch.from_numpy(levels[layer : layer + 1])
                view.copy_(apply_code(view[None], code, level)[0])
    return x


def _finish(x: Tensor, dealt: Dealt, first: int) -> None:
    """Blur, solarize and erase one sample's views, in place."""
    for i, view in enumerate(x, start=first):
        sigma = float(dealt.sigma[i])
        if sigma > 0:
            view.copy_(blur_view(view, sigma))
        if dealt.solarize[i]:
            torch.where(view >= SOLARIZE_FROM, 1 - view, view, out=view)
        if dealt.erase[i, 2]:
            top, left, height, width = dealt.erase[i].tolist()
            view[:, top : top + height, left : left + width] = 0


def _by_view(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[b, V, ...] -> [b V, ...]."""
    return values.reshape(-1, *values.shape[2:])


def _each(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]


def rectangles(boxes: Tensor, size: int) -> Tensor:
    """int32[n, 4] (top, left, height, width) -> bool[n, 1, S, S], True inside."""
    at = torch.arange(size, device=boxes.device)
    top, left, height, width = (edge[:, None] for edge in boxes.unbind(-1))
    rows = (at >= top) & (at < top + height)
    columns = (at >= left) & (at < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
