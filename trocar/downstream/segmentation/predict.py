"""A segmenter's masks for arrays of images, and pictures of the best, the median and the worst of them.

A picture has frame, ground truth and prediction side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from trocar.backbones.device import Halves, Precision, autocast
from trocar.backbones.preprocess import describe_backbone, prediction_batch
from trocar.core.files import writing
from trocar.data.loading.prefetch import in_thread, pinned, sent_ahead
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.metrics.outcome import Floats, confusions
from trocar.downstream.segmentation.segmenter import Segmenter
from trocar.downstream.training.batches import Bytes, Stack
from trocar.errors import TrocarError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def predict_masks(
    model: Segmenter,
    images: Stack,
    sizes: Iterable[tuple[int, int]],
    *,
    batch: int = 16,
    device: str = "cpu",
    precision: Precision = "float32",
) -> Iterator[Bytes]:
    """uint8 [n, H, W, 3] of the model's size (may be memory-mapped) -> a mask uint8 [h, w] of class indices after
    another, each at its own of the `sizes`, which are asked for one at a time.

    Logits are resized before the argmax, not masks after it: edges stay smooth at the native size. The model is put
    into eval mode and moved to `device`. Raises TrocarError for images of another size, and as `logit_batches`.
    """
    wanted = iter(sizes)
    for logits in logit_batches(model, images, batch=batch, device=device, precision=precision):
        for one in logits:
            yield class_map(resized(one[None], next(wanted)))[0].cpu().numpy()


def predicted_confusions(
    model: Segmenter,
    images: Stack,
    masks: Stack,
    *,
    batch: int = 16,
    device: str = "cpu",
    precision: Precision = "float32",
) -> npt.NDArray[np.int64]:
    """Confusions int64 [n, K, K] of the predictions for `images` at the size of `masks` (uint8 [n, h, w]).

    The predicted masks are never all in memory.
    """
    size, start = (masks.shape[1], masks.shape[2]), 0
    found = []
    for logits in logit_batches(model, images, batch=batch, device=device, precision=precision):
        truth = masks[start : start + len(logits)]
        found.append(confusions(truth, class_map(resized(logits, size)).cpu().numpy(), logits.shape[1]))
        start += len(logits)
    return np.concatenate(found)


def logit_batches(
    model: Segmenter, images: Stack, *, batch: int, device: str, precision: Precision = "float32"
) -> Iterator[Tensor]:
    """Logits float32 [b, K, H, W] of the images in their order, on `device`. The next images are read and copied while
    the network computes; a GPU takes more than `batch` at a time, as many as fit.

    Raises TrocarError for logits that are not finite.
    """
    require_size(images, model.size)
    model, where = model.eval().to(device), torch.device(device)
    at_once, halves = prediction_batch(batch, device), Halves(where, where.type == "cuda")

    def read() -> Iterator[Tensor]:
        for start in range(0, len(images), at_once):
            yield pinned(to_tensor(images[start : start + at_once]), where)

    @torch.inference_mode()
    def compute(pixels: Tensor) -> Tensor:
        return logits_of(model, pixels, precision)

    for _, (pixels,) in sent_ahead(((None, [part]) for part in in_thread(read)), where):
        for logits in halves(compute, pixels):
            if not torch.isfinite(logits).all():  # its argmax would be the first class, everywhere
                raise TrocarError(
                    "the segmenter's logits are NaN or infinite; a training that diverged needs a smaller lr"
                )
            yield logits


def logits_of(model: Segmenter, pixels: Tensor, precision: Precision) -> Tensor:
    """uint8 [b, 3, H, W] -> logits float32 [b, K, H, W], on the device of both."""
    with autocast(pixels.device, precision):
        logits: Tensor = model(describe_backbone(model.backbone).normalise(pixels))
    return logits


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """float [b, K, H, W] -> the same of `size` (height, width)."""
    same = tuple(logits.shape[-2:]) == size
    return logits if same else F.interpolate(logits, size, mode="bilinear", align_corners=False)


def class_map(logits: Tensor) -> Tensor:
    """float [b, K, ...] -> uint8 [b, ...], the same as `logits.argmax(1)`: of equal logits the first class wins, and a
    NaN is larger than any number.

    torch's `max` keeps a running maximum and its index, where `argmax` goes through a general reduction over channels
    that lie far apart in memory and takes several times as long (`benchmarks/class_map.py`).
    """
    return logits.max(1).indices.to(torch.uint8)


def to_tensor(images: Bytes) -> Tensor:
    """uint8 [b, H, W, 3], copied out of a memory map if it is one, -> uint8 [b, 3, H, W]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def require_size(images: Stack, size: tuple[int, int]) -> None:
    """Raises TrocarError unless `images` is [n, H, W, ...] of `size` with n > 0."""
    if len(images) == 0 or images.shape[1:3] != size:
        raise TrocarError(
            f"images have the shape {tuple(images.shape)}; the segmenter was built for {size[0]} x {size[1]} px: resize"
            " them or build it for their size"
        )


# Okabe and Ito's colours without black (jfly.uni-koeln.de/color), then those of Paul Tol's schemes that are told
# apart from them best. All are also told apart by the number in the region.
PALETTE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#332288",
    "#882255",
    "#999933",
    "#BBBBBB",
    "#661100",
)
_OPACITY = 0.35
_LEAST_AREA = 1 / 1000


def ranked(scores: Floats) -> dict[str, int]:
    """Rows of the `best`, the `median` (the lower of two) and the `worst` score; NaN is left out.

    Ties go to the first row. Raises ValueError if there is no score.
    """
    rows = np.flatnonzero(~np.isnan(scores))
    if len(rows) == 0:
        raise ValueError("no image has a score")
    order = rows[np.argsort(-scores[rows], kind="stable")]
    return {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}


def draw_overlays(
    images: Sequence[Bytes],
    gt: Sequence[Bytes],
    pred: Sequence[Bytes],
    scores: Floats,
    classes: Sequence[str],
    path: Path,
    *,
    score: str = "IoU",
    background: int | None = 0,
) -> dict[str, int]:
    """Write a PNG of the best, median and worst image by `scores` float64 [n]; returns their rows.

    images: n of uint8 [H, W, 3]; gt and pred: n of uint8 [H, W] of class indices or 255 (hatched grey: not labelled);
    images may differ in size. Each region has a tint, an outline and the number of its class; `background` has none of
    them. `score` names the scores.
    """
    from matplotlib.figure import Figure

    rows = ranked(scores)
    tallest = max(images[row].shape[0] / images[row].shape[1] for row in rows.values())
    figure = Figure(figsize=(12, 0.6 + len(rows) * 4 * tallest), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for line, (what, row) in zip(axes, rows.items(), strict=True):
        for axis, mask in zip(line, (None, gt[row], pred[row]), strict=True):
            _draw(axis, images[row], mask, len(classes), background)
        line[0].set_ylabel(f"{what}: {score} {scores[row]:.3f}")
    for axis, title in zip(axes[0], ("image", "ground truth", "prediction"), strict=True):
        axis.set_title(title)
    shown = {int(c) for row in rows.values() for mask in (gt[row], pred[row]) for c in np.unique(mask)}
    _legend(figure, sorted(shown), classes, background)
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return rows


def colours(count: int, background: int | None) -> npt.NDArray[np.float64]:
    """[count, 3], 0 .. 1: the palette over all classes but the background; it starts again after 12."""
    from matplotlib.colors import to_rgb

    foreground = [c for c in range(count) if c != background]
    found = np.zeros((count, 3))
    for position, c in enumerate(foreground):
        found[c] = to_rgb(PALETTE[position % len(PALETTE)])
    return found


def tinted(image: Bytes, mask: Bytes, count: int, background: int | None) -> npt.NDArray[np.float64]:
    """float64 [H, W, 3], 0 .. 1: the image with each class in its tint and the inner outline of it in full colour."""
    picture = image.astype(np.float64) / 255
    palette = colours(count, background)
    for c in np.unique(mask):
        if c in (background, IGNORED_PIXEL):
            continue
        region = mask == c
        picture[region] = (1 - _OPACITY) * picture[region] + _OPACITY * palette[c]
        picture[region & ~binary_erosion(region, iterations=_line_width(mask), border_value=1)] = palette[c]
    return picture


def _line_width(mask: Bytes) -> int:
    return max(1, round(min(int(length) for length in mask.shape) / 110))


def _draw(axis: Axes, image: Bytes, mask: Bytes | None, count: int, background: int | None) -> None:
    axis.imshow(image if mask is None else tinted(image, mask, count, background), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    if mask is None:
        return
    if (mask == IGNORED_PIXEL).any():
        hatched = axis.contourf(mask == IGNORED_PIXEL, levels=[0.5, 1.5], colors="none", hatches=["////"])
        hatched.set_edgecolor("lightgrey")
        hatched.set_linewidth(0)
    for c in np.unique(mask):
        if c not in (background, IGNORED_PIXEL):
            _number(axis, mask == c, int(c))


def _number(axis: Axes, region: npt.NDArray[np.bool_], c: int) -> None:
    """The class's number at the point of the region that is furthest from its edge; none in a speck."""
    if region.mean() < _LEAST_AREA:
        return
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axis.text(float(x), float(y), str(c), ha="center", va="center", fontsize=8, color="black", bbox=box)


def _legend(figure: object, shown: Sequence[int], classes: Sequence[str], background: int | None) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    assert isinstance(figure, Figure)
    palette = colours(len(classes), background)
    handles = [
        Patch(color=palette[c], label=f"{c} {classes[c]}") for c in shown if c not in (background, IGNORED_PIXEL)
    ]
    if IGNORED_PIXEL in shown:
        handles.append(Patch(facecolor="none", edgecolor="grey", hatch="////", label="not labelled"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False)
