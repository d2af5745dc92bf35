"""A run folder (and results.json) -> RunInputs: what it tells, and pictures of it (`run_pictures`).

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

from trocar.backbones.source import TIMM
from trocar.backbones.weight_names import licence_of
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.inspection import is_doubtful
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.aliases import Aliases, withheld
from trocar.privacy.private_data import is_private, private_of_catalog
from trocar.privacy.redaction import tree_without_folders
from trocar.report.page import Images, spread
from trocar.report.run_pictures import (
    USUAL,
    Amounts,
    Gallery,
    NeighbourComparison,
    PcaComparison,
    compare,
    pick,
    sample_frames,
    selected_rows,
)
from trocar.runs.run_folder import read_config, read_metrics, read_record, read_rows, run_status
from trocar.ssl.engine.checkpoint import steps as saved_steps


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


_WITHHELD = (
    "{} of the {} selected frames are of private videos and are not shown, nor are first views; "
    "`trocar report RUN --share-frames` shows them."
)


def gather(
    run: Path,
    evaluation: Path | None = None,
    views: Mapping[str, Images] | None = None,
    amounts: Amounts = USUAL,
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
        pca, found = compare(run, gallery, cases, _seed(config), amounts, notes, say)
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
        frames=pick(gallery, sheet) if gallery is not None else None,
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


def uniform_loss(config: Mapping[str, Any]) -> float | None:
    """ln K of a method with K prototypes; None for methods without."""
    method = config.get("method")
    head = method.get("head") if isinstance(method, Mapping) else None
    prototypes = head.get("prototypes") if isinstance(head, Mapping) else None
    return math.log(prototypes) if isinstance(prototypes, int) and prototypes > 1 else None


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
