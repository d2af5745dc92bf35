"""Pictures of the best, the median and the worst image: frame, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

from trocar.core.files import writing
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.metrics.outcome import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bytes = npt.NDArray[np.uint8]

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
