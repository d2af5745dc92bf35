"""Colour and blur of views, batched, on any device.

On a GPU no colour passes through a matrix product: where those may use TF32, they round their factors to 11 bits, a
quarter of a grey level. Maps are composed and applied by multiplying and adding, in float32 whatever is allowed.

On a CPU the shifted sum is several times as fast as a matrix product or a convolution at these sizes
(`benchmarks/augment.py`), one view after the other. `blur` is for batches on a GPU, inside the graph that a pretraining
run compiles (`augment.py`), where a shift is another address and no copy; run as it is, each shift passes over all
views. It blurs views with sigma 0 along with the others, by a kernel of one pixel: picking the others would give the
graph another shape at each step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

log = logging.getLogger(__name__)

Run = Callable[..., Tensor]
"""Called as run(function, *arguments): gives function(*arguments), in whatever way."""


def as_it_is(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Run it operation by operation."""
    return function(*arguments)


class Compiler:
    """Compiles a function at its first call, and once more for each further set of shapes and numbers it is given.

    No shape is made dynamic, and the function has to be one graph. Where that fails, such as on a machine without
    Triton or a C compiler, one warning says why, and this function and all others run as they are from then on: slower,
    with the same results but for rounding. Out of memory is no such failure and is raised.

    A constant made inside a graph for a GPU would be copied there at each call, and the host wait for it: hand it in.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self.backend = backend
        self.works = True
        self._compiled: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}

    def __call__(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`function(*arguments)`, which must not change its arguments: it may be called twice."""
        if not self.works:
            return function(*arguments)
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)
        try:
            return self._compiled[function](*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The compiler's own errors have no common class. What isn't one comes again here.
            found = function(*arguments)
            self.works = False
            why = " ".join(str(error).split("\n")[:2]) or type(error).__name__  # which backend, and what it says
            log.warning("views are made without torch.compile, which needs Triton and a C compiler (%s)", why)
            return found


@lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """`values` (floats, or tuples of them) as float32 on `device`. Not to be written to.

    A copy from ordinary host memory makes the host wait for the whole stream: once is enough. Not for use inside a
    compiled graph, which would copy at each call; there a constant has to be an argument.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)


def sent(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The values of an array on `device`; on a GPU the copy waits in the current stream, and the host doesn't."""
    found = torch.as_tensor(values)
    if device.type == "cuda":
        # The allocator of page-locked memory keeps it until the copy is done.
        found = found.pin_memory()
    return found.to(device, non_blocking=True)


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in PIL's and torchvision's grey
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
# What a rotation in YIQ keeps, and what it multiplies by the cosine and by the sine, back in RGB.
_IN_YIQ = np.array([np.diag([1, 0, 0]), np.diag([0, 1, 1]), [[0, 0, 0], [0, 0, -1], [0, 1, 0]]])
_TURN = tuple(tuple(map(tuple, turn)) for turn in (np.linalg.inv(np.array(_YIQ)) @ _IN_YIQ @ np.array(_YIQ)).tolist())


class Fixed(NamedTuple):
    """The constants of a map: `luma` float32[1, 3], and `turn` float32[3, 3, 3], what a turn of hue is made of."""

    luma: Tensor
    turn: Tensor

    @staticmethod
    def on(device: torch.device) -> Fixed:
        """On a device; copied there once."""
        return Fixed(constant((LUMA,), device), constant(_TURN, device))


def colour_maps(
    mean: Tensor, colour: Tensor, order: Tensor, grey: Tensor, fixed: Fixed | None = None
) -> tuple[Tensor, Tensor]:
    """The affine map of jitter and grey: matrix float32[n, 3, 3] and offset float32[n, 3, 1], for RGB in 0..1.

    `mean` float32[n, 3] is each view's own mean colour (contrast pulls towards its luma), `colour` float32[n, 4] and
    `order` int[n, 4] as in ViewParams, `grey` bool[n]. All four operations of ColorJitter are affine in RGB, so their
    composition is, in any order. Inside a compiled graph `fixed` has to be given.
    """
    n, device = mean.shape[0], mean.device
    luma, turn = Fixed.on(device) if fixed is None else fixed
    eye = torch.eye(3, device=device).expand(n, 3, 3)
    to_grey = luma.expand(3, 3)
    brightness, contrast, saturation, hue = colour[..., None, None].unbind(1)
    saturate = torch.lerp(to_grey, eye, saturation)
    linear = torch.stack([brightness * eye, contrast * eye, saturate, _hue_rotation(hue, turn)], 1)
    steps = linear.gather(1, order.long()[..., None, None].expand(n, 4, 3, 3))
    away = torch.where(order == 1, 1 - colour[:, 1:2], 0.0)[..., None, None]
    matrix, offset, mean = eye, torch.zeros(n, 3, 1, device=device), mean[..., None]
    for step, share in zip(steps.unbind(1), away.unbind(1), strict=True):
        towards = share * _product(luma, _product(matrix, mean) + offset)
        matrix, offset = _product(step, matrix), _product(step, offset) + towards
    grey = grey[:, None, None]
    return torch.where(grey, _product(to_grey, matrix), matrix), torch.where(grey, _product(to_grey, offset), offset)


def apply_maps(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Each view's pixels through its map, clamped: float32[n, 3, S, S] in 0..1, without a matrix product."""
    out = offset[..., None]
    for channel in range(3):
        out = torch.addcmul(out, matrix[:, :, channel, None, None], x[:, channel : channel + 1])
    return out.clamp(0, 1)


def written_out(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of float32[..., I, 3] and float32[..., 3, K], by multiplying and adding."""
    return a[..., :1] * b[..., :1, :] + a[..., 1:2] * b[..., 1:2, :] + a[..., 2:] * b[..., 2:, :]


def _product(a: Tensor, b: Tensor) -> Tensor:
    # Of so few numbers torch's product on a CPU is quicker, and the bits of views made there are its.
    return a @ b if a.device.type == "cpu" else written_out(a, b)


def _hue_rotation(hue: Tensor, turn: Tensor) -> Tensor:
    """Rotation of the chroma plane of YIQ by `hue` turns: float32[n, 1, 1] -> float32[n, 3, 3]."""
    # HSV counts its angle from red to green, which is clockwise in the (I, Q) plane.
    angle = hue * (-2 * math.pi)
    keep, cosine, sine = turn
    rotation: Tensor = keep + angle.cos() * cosine + angle.sin() * sine
    return rotation


REACH = 3.0
"""The kernel ends at ceil(3 sigma) pixels; 0.3 % of the Gaussian's weight lies beyond."""


def radius_of(sigma: float, size: int) -> int:
    """Pixels that a kernel of `sigma` reaches to each side; never past the mirrored edge of the view."""
    return min(math.ceil(REACH * sigma), size - 1)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur float[n, C, S, S] by sigma float[n] in pixels (0: not at all); edges are mirrored without repeating them.

    `radius` is the widest kernel's, at least `radius_of` each sigma.
    """
    at = torch.arange(radius + 1, device=x.device, dtype=torch.float32)
    width = torch.where(sigma > 0, sigma, 1.0)[:, None]
    inside = at <= torch.ceil(REACH * sigma)[:, None]
    taps = torch.where(inside, torch.exp(-at.square() / (2 * width.square())), 0.0)
    taps = taps / (2 * taps.sum(-1, keepdim=True) - taps[:, :1])
    weights: list[float | Tensor] = [w[:, None, None, None] for w in taps.unbind(-1)]
    return _along(_along(x, weights, 2), weights, 3)


def blur_view(x: Tensor, sigma: float) -> Tensor:
    """`blur` of one view float[C, S, S] by sigma > 0, doing no more than it needs."""
    half = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(radius_of(sigma, x.shape[-1]) + 1)]
    total = 2 * sum(half) - half[0]
    weights: list[float | Tensor] = [w / total for w in half]
    return _along(_along(x, weights, 1), weights, 2)


def _along(x: Tensor, weights: Sequence[float | Tensor], dim: int) -> Tensor:
    """One direction: the sum of copies shifted by k = 0, 1, ... to both sides, times weights[k]."""
    radius, size = len(weights) - 1, x.shape[dim]
    if radius == 0:
        return x
    before, after = x.narrow(dim, 1, radius).flip(dim), x.narrow(dim, size - 1 - radius, radius).flip(dim)
    padded = torch.cat([before, x, after], dim)
    out = x * weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        for start in (radius - k, radius + k):
            part = padded.narrow(dim, start, size)
            if isinstance(weight, Tensor):
                out = torch.addcmul(out, part, weight)
            else:
                out.add_(part, alpha=weight)
    return out
