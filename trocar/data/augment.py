"""uint8 crops -> augmented, normalised float views. One module for every backend, batched, on any device.

Order of operations: flip, RandAugment, colour jitter, grey, blur, solarize, erase, normalise. Deviations from
torchvision, both from making jitter one affine map per view: hue is a rotation of the chroma plane of YIQ rather than a
shift in HSV, and values are clamped once after jitter rather than after each of its four operations.

There are two ways through the same operations. On a CPU each view gets what its parameters ask for and nothing else,
one sample at a time, so that its bits depend on no other sample. On a GPU the whole group runs through every operation
of its recipe, with neutral parameters where a view has none: no shape and no branch depends on the data, nothing waits
for the device, and `torch.compile` takes `augment_batch` as one graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trocar.data.blur import blur, blur_view, radius_of
from trocar.data.colour import colour_maps
from trocar.data.constant import constant
from trocar.data.randaugment import OPERATIONS
from trocar.data.randaugment_ops import apply_code
from trocar.data.views import ViewGroup, ViewParams, ViewRecipe

SOLARIZE_FROM = 127.5 / 255


@dataclass(frozen=True)
class Dealt:
    """The parameters of n views as tensors on the device of their crops; fields as in ViewParams."""

    flip: Tensor
    colour: Tensor
    order: Tensor
    grey: Tensor
    sigma: Tensor
    solarize: Tensor
    rand_op: Tensor
    rand_level: Tensor
    erase: Tensor

    @staticmethod
    def of(params: ViewParams, device: torch.device) -> Dealt:
        """From the host's arrays [b, V, ...] to tensors [b V, ...]; on a GPU without waiting for the copy."""
        found = {}
        for field in fields(Dealt):
            values = torch.as_tensor(getattr(params, field.name)).flatten(0, 1)
            if device.type == "cuda":
                values = values.pin_memory()
            found[field.name] = values.to(device, non_blocking=True)
        return Dealt(**found)


def augment(
    crops: dict[str, Tensor],
    params: ViewParams,
    recipe: ViewRecipe,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Tensor]:
    """{group: uint8[b, n, 3, S, S]} -> {group: float32[b, n, 3, S, S]}, normalised by `mean` and `std` (of 0..1)."""
    device = next(iter(crops.values())).device
    scaling = constant((tuple(mean), tuple(std)), device)[..., None, None]
    if device.type == "cpu":
        return _sample_by_sample(crops, params, recipe, scaling)
    out = {}
    for (name, which), group in zip(recipe.slices().items(), recipe.groups.values(), strict=True):
        views = augment_batch(crops[name].flatten(0, 1), Dealt.of(params.views(which), device), group, scaling)
        out[name] = views.view(crops[name].shape)
    return out


def augment_batch(crops: Tensor, dealt: Dealt, group: ViewGroup, scaling: Tensor) -> Tensor:
    """All operations of the recipe on all views: uint8[n, 3, S, S] -> float32[n, 3, S, S].

    `scaling` float32[2, 3, 1, 1] holds mean and std. Without branches on data.
    """
    x = crops.float() / 255
    x = torch.where(_each(dealt.flip), x.flip(-1), x)
    if group.rand_augment is not None:
        for layer in range(group.rand_augment.layers):
            op, level = dealt.rand_op[:, layer], dealt.rand_level[:, layer]
            for code, name in enumerate(OPERATIONS, start=1):
                if name in group.rand_augment.operations:
                    x = torch.where(_each(op == code), apply_code(x, code, level), x)
    matrix, offset = colour_maps(x.mean((-2, -1)), dealt.colour, dealt.order, dealt.grey)
    x = (torch.bmm(matrix, x.flatten(2)) + offset).clamp(0, 1).view_as(x)
    x = blur(x, dealt.sigma, radius_of(group.sigma[1], group.size))
    x = torch.where(_each(dealt.solarize) & (x >= SOLARIZE_FROM), 1 - x, x)
    if group.erase is not None:
        x = torch.where(_rectangles(dealt.erase, group.size), 0.0, x)
    return (x - scaling[0]) / scaling[1]


def _sample_by_sample(
    crops: dict[str, Tensor], params: ViewParams, recipe: ViewRecipe, scaling: Tensor
) -> dict[str, Tensor]:
    """The same on a CPU, skipping what a view doesn't ask for."""
    out = {name: torch.empty(x.shape, dtype=torch.float32) for name, x in crops.items()}
    for index in range(len(params.flip)):
        dealt = Dealt.of(params.samples(slice(index, index + 1)), torch.device("cpu"))
        moved = {name: _moved(crops[name][index], dealt, which.start) for name, which in recipe.slices().items()}
        mean = torch.cat([x.mean((-2, -1)) for x in moved.values()])
        matrix, offset = colour_maps(mean, dealt.colour, dealt.order, dealt.grey)
        for name, which in recipe.slices().items():
            done = out[name][index]
            flat = done.view(len(done), 3, -1)
            torch.baddbmm(offset[which], matrix[which], moved[name].flatten(2), out=flat).clamp_(0, 1)
            _finish(done, dealt, which.start)
            done.sub_(scaling[0]).div_(scaling[1])
    return out


def _moved(crops: Tensor, dealt: Dealt, first: int) -> Tensor:
    """Flip and RandAugment of one sample's views: uint8[n, 3, S, S] -> float32 in 0..1; they are views `first`, ..."""
    x = crops.float().div_(255)
    for i in range(len(x)):
        if dealt.flip[first + i]:
            x[i] = x[i].flip(-1)
        for layer, code in enumerate(dealt.rand_op[first + i].tolist()):
            if code:
                x[i : i + 1] = apply_code(x[i : i + 1], code, dealt.rand_level[first + i, layer][None])
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


def _each(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]


def _rectangles(boxes: Tensor, size: int) -> Tensor:
    """int32[n, 4] (top, left, height, width) -> bool[n, 1, S, S], True inside."""
    at = torch.arange(size, device=boxes.device)
    top, left, height, width = (edge[:, None] for edge in boxes.unbind(-1))
    rows = (at >= top) & (at < top + height)
    columns = (at >= left) & (at < left + width)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
