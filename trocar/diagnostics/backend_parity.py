"""Do two backends make the same views of the same frames? Measured, with the bounds that have to hold.

Rows, boxes and every parameter must be equal. Crops may differ by what two resamplers round differently: 99.9 % of the
values by at most 2 of 255, away from the border of the crop, where one backend sees the frame beyond the box and the
other does not. Views must not differ by more than their crops do, times what their own colour map can make of it.

Textured frames for the parity check: a small catalog in a temporary folder, or the user's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from trocar.core.random import make_key, uniform, words
from trocar.data.catalog.catalog import QUALITY_SCHEMA, Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.framing import encode
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.loading.batch import Crops
from trocar.data.loading.dali_pipeline import border
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.pixel_ops import colour_maps
from trocar.data.views.recipe import ViewGroup, ViewParams, ViewPlan, ViewRecipe
from trocar.ssl.run.pretrain_config import DataConfig

FRAMES = 8
WIDTH, HEIGHT = 320, 240

# DINO's views (2 x 224, 8 x 96; arXiv 2104.14294) at the sizes that suit a small frame, and some by the other kernel.
RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=128, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=4, size=64, scale=(0.05, 0.4)),
        "bilinear": ViewGroup(count=2, size=96, scale=(0.2, 1.0), interpolation="bilinear"),
    }
)


def textured(index: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture with coarse and fine detail in all channels: a smooth one would agree whatever was wrong."""
    key = make_key("doctor", index)
    coarse = uniform(words(key, 3, np.arange(height // 8)[:, None], np.arange(width // 8)[None]))
    fine = uniform(words(key, 3, np.arange(height)[:, None], np.arange(width)[None], 1))
    smooth = Image.fromarray((255 * coarse).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(smooth) + 60 * (fine - 0.5)).clip(0, 255).astype(np.uint8))


def write_frames(
    root: Path,
    count: int = FRAMES,
    rows: int | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    quality: int = 90,
) -> Catalog:
    """A catalog of `rows` frames (default: `count`) below `root`, which show `count` textured pictures in turn."""
    (root / "shards").mkdir(parents=True)
    pictures = [encode(textured(index, width, height), quality) for index in range(count)]
    rows = rows or count
    with ShardWriter(root / "shards", "textured") as writer:
        for row in range(rows):
            writer.add(float(row), pictures[row % count], width, height)
    entry = VideoEntry(
        name="textured",
        case_id="textured",
        part=1,
        source="doctor",
        fps=1.0,
        duration_s=float(rows),
        content_hash=writer.content.hexdigest(),
        shards=writer.shards(),
        frames=writer.frames(),
        quality=no_verdicts(rows),
    )
    write_catalog(root, [entry])
    return Catalog.open(root)


def loader_of(catalog: Catalog, backend: Backend, device: torch.device, hw_decoder_load: float = 0.0) -> Loader:
    """A loader of one step of at most FRAMES frames of a catalog, everything in the calling thread."""
    selection = Composition(curate="none").resolve(catalog)
    plan = Plan(selection, min(FRAMES, len(selection)), 0)
    views, reader = ViewPlan(RECIPE, 0), Reader(catalog)
    return Loader(
        plan,
        views,
        reader,
        (0.5,) * 3,
        (0.25,) * 3,
        workers=0,
        backend=backend,
        device=device,
        hw_decoder_load=hw_decoder_load,
    )


def no_verdicts(rows: int) -> pa.Table:
    """Quality verdicts of `rows` frames that nothing is known of."""
    columns = {field.name: [_nothing(field.type)] * rows for field in QUALITY_SCHEMA}
    return pa.table(columns, schema=QUALITY_SCHEMA)


def _nothing(kind: pa.DataType) -> bytes | bool | int:
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    return False if pa.types.is_boolean(kind) else 0


CROP_BOUND = 2.0
"""Of the 99.9th percentile of the difference of crops inside their border, in 1/255."""
DEFAULT_LOAD = float(DataConfig.model_fields["hw_decoder_load"].default)
LOADS = tuple(sorted({0.0, DEFAULT_LOAD, 1.0}))
"""Shares of a GPU's JPEG engine to compare at: none of the frames, what a run has, all of them."""
ROUNDING = 0.01
"""What float32 may add to a view's difference, in 1/255."""


@dataclass(frozen=True)
class Parity:
    """What was measured; differences are in 1/255.

    `crop_p999` and `crop_max` are of crops inside their border, `edge_max` of all of them; `border` is the widest one,
    in pixels. `view_p999` is of the final views before normalisation, `view_share` the largest difference of a view as
    a share of the bound that its colour map gives: at most 1.
    """

    frames: int
    views: int
    same_rows: bool
    same_parameters: bool
    border: int
    crop_p999: float
    crop_max: float
    edge_max: float
    view_p999: float
    view_share: float

    def problems(self) -> list[str]:
        """What is outside its bound, in words; empty if the backends agree."""
        found = []
        if not self.same_rows:
            found.append("the backends delivered different frames")
        if not self.same_parameters:
            found.append("boxes or view parameters differ")
        if self.crop_p999 > CROP_BOUND:
            found.append(
                f"crops differ by {self.crop_p999:.1f}/255 at the 99.9th percentile, the bound is {CROP_BOUND:.0f}"
            )
        if self.view_share > 1:
            found.append(f"a view differs {self.view_share:.2f} times as much as its crop and colour explain")
        return found


def measure(reference: Loader, other: Loader, step: int = 0) -> Parity:
    """Compare one step of two loaders of the same plan and recipe, without RandAugment."""
    ours, theirs = reference.crops(step), other.crops(step)
    same_rows = bool(np.array_equal(ours.frames, theirs.frames))
    inside, edge, borders = _crop_differences(ours, theirs, reference)
    views, share = _view_differences(reference, ours, other, theirs)
    return Parity(
        frames=len(ours.rows),
        views=len(ours.rows) * reference.views.recipe.count,
        same_rows=same_rows,
        same_parameters=_same(ours.params, theirs.params),
        border=max(borders),
        crop_p999=float(np.percentile(inside, 99.9)) if inside.size else 0.0,
        crop_max=float(inside.max(initial=0)),
        edge_max=float(edge),
        view_p999=float(np.percentile(views, 99.9)),
        view_share=share,
    )


def colour_gain(params: ViewParams) -> Tensor:
    """float32[b V]: how much a view's jitter and grey can enlarge a difference of its crop.

    They are x -> M x + A m with m the view's mean colour, so a difference of at most e in every value becomes at most
    (|M| + |A|) e, with the largest row sums of absolute values. Blur, solarize, flip and clamping enlarge nothing.
    """
    colour, order, grey = (torch.as_tensor(getattr(params, n)).flatten(0, 1) for n in ("colour", "order", "grey"))
    means = [torch.zeros(3), *torch.eye(3)]
    maps = [colour_maps(mean.expand(len(colour), 3), colour, order, grey) for mean in means]
    matrix = maps[0][0]
    pulled = torch.stack([(offset - maps[0][1]).flatten(1) for _, offset in maps[1:]], -1)
    return matrix.abs().sum(-1).amax(-1) + pulled.abs().sum(-1).amax(-1)


def _crop_differences(
    ours: Crops, theirs: Crops, loader: Loader
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int, list[int]]:
    inside, edge, borders = [], 0, [0]
    for difference, box, group in _pairs(ours, theirs, loader):
        rows, columns = border(box, group.size, group.interpolation)
        borders += [rows, columns]
        edge = max(edge, int(difference.max()))
        if 2 * max(rows, columns) < group.size:
            inside.append(difference[:, rows : group.size - rows, columns : group.size - columns].flatten().numpy())
    return np.concatenate(inside) if inside else np.zeros(0, np.int64), edge, borders


def _pairs(ours: Crops, theirs: Crops, loader: Loader) -> Iterator[tuple[Tensor, list[int], ViewGroup]]:
    recipe = loader.views.recipe
    for (name, which), group in zip(recipe.slices().items(), recipe.groups.values(), strict=True):
        difference = (ours.crops[name].long() - theirs.crops[name].cpu().long()).abs()
        boxes = ours.params.boxes[:, which].tolist()
        for sample, of_sample in enumerate(boxes):
            for view, box in enumerate(of_sample):
                yield difference[sample, view], box, group


def _view_differences(
    reference: Loader, ours: Crops, other: Loader, theirs: Crops
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float32]], float]:
    a, b = reference.augmented(ours).views, other.augmented(theirs).views
    gain = colour_gain(ours.params).view(len(ours.rows), -1)
    std = torch.tensor(list(reference.std))[:, None, None]
    differences, share = [], 0.0
    for name, which in reference.views.recipe.slices().items():
        view = ((a[name] - b[name].cpu()).abs() * std * 255).flatten(2)
        crop = (ours.crops[name].long() - theirs.crops[name].cpu().long()).abs().flatten(2).amax(-1)
        bound = gain[:, which] * crop + ROUNDING
        share = max(share, float((view.amax(-1) / bound).max()))
        differences.append(view.flatten().numpy())
    return np.concatenate(differences), share


def _same(ours: ViewParams, theirs: ViewParams) -> bool:
    return all(np.array_equal(getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(ViewParams))
