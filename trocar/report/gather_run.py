"""A run folder (and results.json) -> RunInputs: reads, decodes, runs both networks over a few frames.

What a page is made of is plain data: who computes it is no concern of the page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.backbones.load import load_backbone, random_like
from trocar.backbones.source import TIMM
from trocar.backbones.weight_names import licence_of
from trocar.core.config import validate
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.inspection import is_doubtful
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import open_jpeg
from trocar.data.selection.composition import Composition
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.guard import RunGuard
from trocar.privacy.aliases import Aliases, withheld
from trocar.privacy.private_data import is_private, private_of_catalog
from trocar.privacy.redaction import tree_without_folders
from trocar.report.page import Images, PictureFeatures, clock, neighbours, pca_maps, spread
from trocar.runs.run_folder import read_config, read_metrics, read_record, read_rows, run_status
from trocar.ssl.engine.checkpoint import steps as saved_steps
from trocar.ssl.run.probe_config import ProbeConfig


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
class RunInputs:
    """Everything on the page; what is None or empty is left out, and `notes` say why.

    record: run.json. config: config.yaml. metrics: rows of `runs.run_folder.read_metrics`. resumes: first
    logged step of every attempt but the first. uniform_loss: ln K, the loss of uniform outputs. evaluation:
    results.json of `trocar evaluate`. views: group name -> uint8 [b, n, S, S, 3]. provenance: what it ran on,
    name -> value.
    """

    title: str
    record: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    resumes: Sequence[int] = ()
    uniform_loss: float | None = None
    evaluation: Mapping[str, Any] | None = None
    frames: Gallery | None = None
    views: Mapping[str, Images] | None = None
    pca: PcaComparison | None = None
    neighbours: NeighbourComparison | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    notes: Sequence[str] = ()


NEIGHBOURS = 5
_WITHHELD = (
    "{} of the {} selected frames are of private videos and are not shown, nor are first views; "
    "`trocar report RUN --share-frames` shows them."
)


@dataclass(frozen=True)
class Amounts:
    """How much is shown: frames of the contact sheet, with feature maps, queries, and frames to search in."""

    sheet: int = 18
    maps: int = 6
    queries: int = 4
    pool: int = 300


def gather(
    run: Path,
    evaluation: Path | None = None,
    views: Mapping[str, Images] | None = None,
    amounts: Amounts = Amounts(),
    say: Say = lambda _: None,
    share_frames: bool | None = None,
) -> RunInputs:
    """Everything the run folder tells, and pictures where its catalog and backbone are at hand.

    `views` (group -> uint8 [b, n, S, S, 3]) come from the caller, who knows the loader. What is missing is
    named in `notes` instead of failing. Frames of private videos and their names are left out unless `share_frames`
    (None: what privacy.share_frames of the run says). Raises TrocarError for a folder that is no run, ConfigError for a
    bad results file.
    """
    run = run.resolve()
    record, config = read_record(run), read_config(run)
    notes: list[str] = []
    catalog = _catalog(config, notes)
    private = catalog is not None and any(catalog.videos["private"].to_pylist())
    share = _shares(config) if share_frames is None else share_frames
    hidden = Aliases() if share else _hidden(run, catalog, evaluation)
    gallery = cases = None
    if catalog is not None:
        rows = selected_rows(catalog, config, notes)
        shown = rows if share else rows[~is_private(catalog, rows)]
        if len(shown) < len(rows):
            views = None
            notes.append(_WITHHELD.format(len(rows) - len(shown), len(rows)))
        # Whatever was selected: a frame that may show somebody is not shown before somebody has looked.
        shown = shown[~is_doubtful(catalog)[shown]]
        if len(shown):
            gallery, cases = sample_frames(catalog, shown, amounts.pool)
    elif not share:
        views = None  # without the catalog nobody knows whose they are
    pca, found = None, None
    if gallery is not None and cases is not None:
        pca, found = _compare(run, gallery, cases, _seed(config), amounts, notes, say)
    sheet = spread(len(gallery.images), amounts.sheet) if gallery is not None else []
    results = _read_results(evaluation) if evaluation is not None else None
    if results is not None and not _is_of(run, results):
        notes.append(f"The evaluation in {evaluation} has no scores of this run.")
    return RunInputs(
        title=hidden.text(run.name),
        record={**record, "status": run_status(record), "saved_step": max(saved_steps(run), default=0)},
        config=tree_without_folders(hidden.tree(config)),
        metrics=read_metrics(run),
        resumes=_resumes(run),
        uniform_loss=uniform_loss(config),
        evaluation=_without(hidden, results),
        frames=_pick(gallery, sheet) if gallery is not None else None,
        views=views,
        pca=pca,
        neighbours=found,
        provenance=tree_without_folders(hidden.tree(_provenance(run, record, config, catalog))),
        private=private and share,
        notes=hidden.tree(notes),
    )


def _is_of(run: Path, results: Mapping[str, Any]) -> bool:
    """Whether a row of results.json is of the run, its backbone or one of its checkpoints, or may be: names may be
    relative to a folder that nobody knows.
    """
    members = (str(name) for row in results["rows"] if row["kind"] == "backbone" for name in row["members"])
    paths = [Path(re.sub(r", (draw|start) \d.*", "", name)) for name in members]
    return any(not path.exists() or path.resolve() == run or run in path.resolve().parents for path in paths)


def _shares(config: Mapping[str, Any]) -> bool:
    privacy = config.get("privacy")
    return isinstance(privacy, Mapping) and privacy.get("share_frames") is True


def _without(hidden: Aliases, results: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Results without the names, in those places that hold text from outside."""
    if results is None:
        return None
    data = {key: hidden.tree(value) for key, value in results["data"].items()}
    rows = [{**row, "backbone": hidden.text(str(row["backbone"]))} for row in results["rows"]]
    return {**results, "data": data, "rows": rows}


def _hidden(run: Path, catalog: Catalog | None, evaluation: Path | None) -> Aliases:
    """What the run and its evaluation left to be withheld, and what the catalog marks private by now."""
    folders = [run] if evaluation is None else [run, evaluation if evaluation.is_dir() else evaluation.parent]
    marked = [] if catalog is None else [private_of_catalog(catalog).hidden]
    return Aliases.join([*map(withheld, folders), *marked])


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


def uniform_loss(config: Mapping[str, Any]) -> float | None:
    """ln K of a method with K prototypes; None for methods without."""
    method = config.get("method")
    head = method.get("head") if isinstance(method, Mapping) else None
    prototypes = head.get("prototypes") if isinstance(head, Mapping) else None
    return math.log(prototypes) if isinstance(prototypes, int) and prototypes > 1 else None


def _compare(
    run: Path,
    gallery: Gallery,
    cases: list[str],
    seed: int,
    amounts: Amounts,
    notes: list[str],
    say: Say,
) -> tuple[PcaComparison | None, NeighbourComparison | None]:

    if not (run / "backbone" / "model.safetensors").is_file():
        notes.append("The run has no backbone yet, so there are no feature maps and no nearest frames.")
        return None, None
    say("features of random and of trained weights")
    before = PictureFeatures(random_like(run / "backbone", seed=seed))
    after = PictureFeatures(load_backbone(run / "backbone"))
    shown = _pick(gallery, spread(len(gallery.images), amounts.maps))
    pca = PcaComparison(shown.images, pca_maps(before.maps(shown.images)), pca_maps(after.maps(shown.images)))
    queries = np.array(spread(len(gallery.images), amounts.queries), np.int64)
    try:
        old = neighbours(before.pooled(gallery.images), cases, queries, NEIGHBOURS)
        new = neighbours(after.pooled(gallery.images), cases, queries, NEIGHBOURS)
    except TrocarError as error:
        notes.append(f"No nearest frames: {error}.")
        return pca, None
    return pca, NeighbourComparison(gallery, queries, old, new)


def _seed(config: Mapping[str, Any]) -> int:
    """The run's own seed: random weights are then the ones it began with, if it began with random ones."""
    run = config.get("run")
    seed = run.get("seed") if isinstance(run, Mapping) else None
    return seed if isinstance(seed, int) else 0


def _catalog(config: Mapping[str, Any], notes: list[str]) -> Catalog | None:

    data = config.get("data")
    path = data.get("catalog") if isinstance(data, Mapping) else None
    if not path:
        notes.append("The configuration names no catalog, so no frames are shown.")
        return None
    try:
        return Catalog.open(path)
    except TrocarError as error:
        notes.append(f"No frames are shown: {error}")
        return None


def _read_results(path: Path) -> Mapping[str, Any]:
    file = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there; name the folder that `trocar evaluate --out` wrote") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: not a results file of `trocar evaluate`: {error}") from None
    if not isinstance(results, dict) or not {"rows", "tasks", "data"} <= results.keys():
        raise ConfigError(f"{file}: not a results file of `trocar evaluate`: it has no rows, tasks and data")
    return results


def _resumes(run: Path) -> list[int]:
    first: dict[int, int] = {}
    for row in read_rows(run):
        first.setdefault(row.attempt, row.step)
    return sorted(step for attempt, step in first.items() if attempt != min(first))


def _provenance(
    run: Path, record: Mapping[str, Any], config: Mapping[str, Any], catalog: Catalog | None
) -> dict[str, str]:
    facts = {"run folder": str(run), "run id": str(record.get("run_id", ""))}
    manifests = sorted((run / "checkpoints").glob("step-*/manifest.json"))
    if manifests:
        manifest = json.loads(manifests[-1].read_text(encoding="utf-8"))
        facts["last checkpoint"] = f"step {manifest['step']}"
        facts["selected data"] = str(manifest.get("identity", {}).get("data", ""))
        facts.update({str(key): str(value) for key, value in manifest.get("environment", {}).items()})
    if first := _first_weights(run, config):
        facts["first weights"] = first
    if catalog is not None:
        videos = len(set(catalog.videos["case_id"].to_pylist()))
        facts["catalog"] = f"{catalog.location}: {len(catalog):,} frames of {videos} cases"
        facts["catalog fingerprint"] = catalog.fingerprint
    facts["mlflow run"] = str(record.get("mlflow_run_id", "not synced"))
    return {key: value for key, value in facts.items() if value}


def _first_weights(run: Path, config: Mapping[str, Any]) -> str:
    """The weights that a run started from, and their licence; "" for random ones and where it is not recorded."""
    name = str((config.get("backbone") or {}).get("name", ""))
    if name.startswith(TIMM):
        return f"{name}, licence {licence_of(name.removeprefix(TIMM))}"
    about = run / "backbone" / "config.json"
    init = json.loads(about.read_text(encoding="utf-8")).get("trocar", {}).get("init") if about.is_file() else None
    return f"{init['name']}, licence {init.get('licence', 'unknown')}" if init else ""


def _pick(gallery: Gallery, indices: list[int]) -> Gallery:
    return Gallery(gallery.images[indices], [gallery.captions[index] for index in indices])


def _middle(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
