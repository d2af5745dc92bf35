"""Pictures of a run's page: frames of its own selection, and what random and trained weights make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.backbones.load import load_backbone, random_like
from trocar.core.config import validate
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import open_jpeg
from trocar.data.selection.composition import Composition
from trocar.errors import TrocarError
from trocar.leakage.guard import RunGuard
from trocar.report.page import Images, PictureFeatures, clock, neighbours, pca_maps, spread
from trocar.ssl.run.probe_config import ProbeConfig

NEIGHBOURS = 5


@dataclass(frozen=True)
class Gallery:
    """Frames uint8 [n, h, w, 3] and one short caption each (case and time)."""

    images: Images
    captions: Sequence[str]


@dataclass(frozen=True)
class PcaComparison:
    """Patch features of the same frames as colours, from random weights and from the trained backbone.

    images uint8 [n, H, W, 3]; before and after uint8 [n, h, w, 3] from `page.pca_maps`.
    """

    images: Images
    before: Images
    after: Images


@dataclass(frozen=True)
class NeighbourComparison:
    """Nearest frames to each query, from other cases only, by random weights and by the trained backbone.

    queries int64 [q], before and after int64 [q, k]: indices into `gallery`.
    """

    gallery: Gallery
    queries: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Amounts:
    """How much is shown: frames of the contact sheet, with feature maps, queries, and frames to search in."""

    sheet: int = 18
    maps: int = 6
    queries: int = 4
    pool: int = 300


USUAL = Amounts()


def sample_frames(catalog: Catalog, rows: npt.NDArray[np.int64], count: int) -> tuple[Gallery, list[str]]:
    """`count` frames spread evenly over `rows`, decoded to squares of 224 px at the most, and the case of
    each.
    """
    reader = Reader(catalog)
    cases, firsts = catalog.videos["case_id"].to_pylist(), catalog.frames
    images, captions, found = [], [], []
    for row in rows[spread(len(rows), count)]:
        try:
            image = open_jpeg(reader.read(int(row)))
        except (BadContentError, RejectError, OSError):
            continue
        case = str(cases[int(firsts["video"][row])])
        images.append(np.asarray(_middle(image, 224)))
        still = catalog.is_still[int(firsts["video"][row])]
        captions.append(case if still else f"{case} {clock(firsts['time_s'][row])}")
        found.append(case)
    if not images:
        raise TrocarError(f"{catalog.location}: none of its frames can be read")
    return Gallery(np.stack(images), captions), found


def selected_rows(catalog: Catalog, config: Mapping[str, Any], notes: list[str]) -> npt.NDArray[np.int64]:
    """The catalog rows of the run's own selection, ascending: without what its leak guard and its probes held out.

    When its composition can't be resolved any more all rows are taken, and `notes` says so.
    """
    data, train = config.get("data") or {}, config.get("train") or {}
    steps, batch = train.get("steps"), train.get("batch")
    try:
        composition = validate(Composition, data.get("composition") or {}, "config.yaml")
        probes = [validate(ProbeConfig, probe, "config.yaml") for probe in config.get("probe") or ()]
        samples = steps * batch if steps is not None else None
        selection = RunGuard(probed=probes).resolve(composition, catalog, samples)
    except TrocarError as error:
        notes.append(f"Frames are from the whole catalog; the selection of the run can't be made again: {error}")
        return np.arange(len(catalog), dtype=np.int64)
    rows = [pool.runs.rows(np.arange(len(pool), dtype=np.int64)) for pool in selection.pools]
    return np.sort(np.concatenate(rows))


def compare(
    run: Path,
    gallery: Gallery,
    cases: list[str],
    seed: int,
    amounts: Amounts,
    notes: list[str],
    say: Say,
) -> tuple[PcaComparison | None, NeighbourComparison | None]:
    """Feature maps and nearest frames by random weights of `seed` and by the run's; None, and a line in `notes`, where
    they can't be. `cases` are those of the gallery's frames.
    """
    if not (run / "backbone" / "model.safetensors").is_file():
        notes.append("The run has no backbone yet, so there are no feature maps and no nearest frames.")
        return None, None
    say("features of random and of trained weights")
    before = PictureFeatures(random_like(run / "backbone", seed=seed))
    after = PictureFeatures(load_backbone(run / "backbone"))
    shown = pick(gallery, spread(len(gallery.images), amounts.maps))
    pca = PcaComparison(shown.images, pca_maps(before.maps(shown.images)), pca_maps(after.maps(shown.images)))
    queries = np.array(spread(len(gallery.images), amounts.queries), np.int64)
    try:
        old = neighbours(before.pooled(gallery.images), cases, queries, NEIGHBOURS)
        new = neighbours(after.pooled(gallery.images), cases, queries, NEIGHBOURS)
    except TrocarError as error:
        notes.append(f"No nearest frames: {error}.")
        return pca, None
    return pca, NeighbourComparison(gallery, queries, old, new)


def pick(gallery: Gallery, indices: list[int]) -> Gallery:
    """Some of its frames."""
    return Gallery(gallery.images[indices], [gallery.captions[index] for index in indices])


def _middle(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
