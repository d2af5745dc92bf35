"""A finished study whose scores are planted: a lock, stages and predictions as real ones are, but nothing was trained.

Every test case has ten frames. Of an arm with accuracy 0.8 eight frames are right in the mean case; cases scatter
around that by a frame, all arms alike, and `luck` moves the seeds apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from data_factory import make_catalog
from PIL import Image

FRAMES = 10
CLASSES = ("Preparation", "Dissection", "Closing")
MASK_CLASSES = ("background", "tool")
SIDE = 32


@dataclass(frozen=True)
class Planted:
    """`arms`: pretrained arm -> accuracy; `given`: baseline -> accuracy, `init` among them. `cases_of`: arm -> cases of
    each seed. `budgets`: name -> labelled cases. `leak`: arm -> what results.json says. `leave_out: task`: each task
    has pretrainings of its own, which saw one case more, case 10 for the first task. `dense`: the task of `masks`.
    """

    arms: Mapping[str, float]
    given: Mapping[str, float] = field(default_factory=lambda: {"init": 0.5})
    tasks: Sequence[str] = ("phase",)
    test_cases: Sequence[str] = tuple(f"case{number:02d}" for number in range(12))
    classes: Sequence[str] = CLASSES
    seeds: int = 3
    luck: float = 0.0
    contrasts: Sequence[tuple[str, str]] | None = None
    cases_of: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=lambda: {"100%": 8})
    leak: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    private: Sequence[str] = ()
    missing: Sequence[str] = ()
    kept_out: Sequence[Mapping[str, Any]] = ()
    source: str = "phantom"
    leave_out: str = "all"
    dense: str = "segmentation"


def plant(root: Path, planted: Planted) -> tuple[Any, Any]:
    """Write it below `root`; returns (study, store) as `trocar.report.study_report` takes them."""
    from trocar.study.config import StudyConfig
    from trocar.study.stages import Store
    from trocar.study.study_lock import StudyLock, write_lock

    make_catalog(root / "shards", 24, 2, private=planted.private)
    _labels(root / "labels", planted)
    study = StudyConfig.model_validate(_study(root, planted))
    store = Store(study.store)
    lock = StudyLock.model_validate_json(json.dumps(_lock(root, planted, study, store)))
    write_lock(store, lock)
    return study, store


def _study(root: Path, planted: Planted) -> dict[str, Any]:
    task = {"data": str(root / "labels"), "budgets": [b if b == "100%" else int(b) for b in planted.budgets]}
    kinds = {
        "phase": {**task, "protocol": ["knn"], "metric": "accuracy@pooled"},
        "masks": {**task, "task": planted.dense, "protocol": ["segmentation"], "metric": "iou@dataset"},
    }
    return {
        "name": "planted",
        "store": str(root / "store"),
        "catalog": str(root / "shards"),
        "arms": {arm: {"include": [{"hospital": ["north"]}]} for arm in planted.arms},
        "baselines": {"backbones": {arm: "test_resnet" for arm in planted.given if arm not in ("init", "random")}},
        "pretrain": {"recipe": "method/simclr", "steps": 3},
        "match": "steps",
        "tasks": {name: kinds[name] for name in planted.tasks},
        "pretrain_seeds": planted.seeds,
        "contrasts": planted.contrasts,
        "leave_out": planted.leave_out,
    }


def _labels(root: Path, planted: Planted) -> None:
    """Grey frames with a bright square, the tool."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for place in range(len(planted.test_cases)):
        for k in range(FRAMES):
            image = rng.integers(60, 90, (SIDE, SIDE * 4 // 3, 3), dtype=np.uint8)
            image[8:20, 8 + k : 20 + k] = (200, 60 + 12 * k, 60)
            Image.fromarray(image).save(root / f"{place}_{k}.png")


def _lock(root: Path, planted: Planted, study: Any, store: Any) -> dict[str, Any]:
    from trocar.study.study_lock import FORMAT

    kinds = dict.fromkeys(planted.arms, "pretrained") | {
        arm: arm if arm in ("init", "random") else "backbone" for arm in planted.given
    }
    protocols = {"phase": "knn", "masks": "segmentation fpn"}
    stages: dict[str, Any] = {}
    runs, evaluations = [], []
    for arm in planted.arms:
        for seed in range(planted.seeds):
            for run in _runs(planted, arm, seed):
                runs.append(run)
                _stage(store, stages, run["stage"], "pretrain", f"{arm}, seed {seed}", planted.missing)
                _backbone(store.out(run["stage"]) / "backbone", seed)
    for arm, kind in kinds.items():
        for seed in range(planted.seeds) if kind == "pretrained" else [None]:
            for task in planted.tasks:
                for budget in planted.budgets:
                    members = planted.seeds if kind in ("init", "random") else 1
                    name = f"evaluate-{arm}-{seed}-{task}-{budget}".replace(" ", "_").replace("%", "")
                    evaluations.append(
                        {"arm": arm, "kind": kind, "seed": seed, "task": task, "protocol": protocols[task],
                         "budget": budget, "members": members, "draws": 1, "starts": 1, "stage": name}
                    )  # fmt: skip
                    _stage(store, stages, name, "evaluate", f"{arm}: {task}", planted.missing)
                    _score(store.out(name), planted, evaluations[-1])
    return {
        "format": FORMAT,
        "trocar": "0",
        "study": study.model_dump(mode="json"),
        "versions": {"pretrain": 1, "evaluate": 1, "report": 1},
        "plugins": {},
        "catalog": "f" * 16,
        "weights": {
            "test_resnet": {"kind": "timm", "name": "test_resnet"},
            "random:test_resnet": {"kind": "random", "name": "test_resnet"},
        },
        "runs": runs,
        "init_of": dict.fromkeys(planted.arms, "init"),
        "tasks": {task: _task(root, planted, task) for task in planted.tasks},
        "evaluations": evaluations,
        "contrasts": [list(pair) for pair in planted.contrasts or [(arm, "init") for arm in planted.arms]],
        "left_out": dict(planted.left_out),
        "report": "report-0",
        "stages": stages,
    }


def _runs(planted: Planted, arm: str, seed: int) -> list[dict[str, Any]]:
    run = _run(planted, arm, seed)
    if planted.leave_out == "all":
        return [run]
    own = {task: f"{planted.source}/case{number}" for number, task in enumerate(planted.tasks, start=10)}
    return [
        run | {"tasks": [task], "stage": f"{run['stage']}-{task}", "cases": [*run["cases"], case]}
        for task, case in own.items()
    ]


def _run(planted: Planted, arm: str, seed: int) -> dict[str, Any]:
    cases = planted.cases_of.get(arm, [[f"{planted.source}/case{16 + seed:02d}"]] * planted.seeds)[seed]
    return {
        "arm": arm, "seed": seed, "tasks": list(planted.tasks),
        "stage": f"pretrain-{arm}-{seed}".replace(" ", "_"), "asked": "", "selection": "",
        "cases": list(cases), "leaks": list(planted.kept_out),
        "frames": 2 * len(cases), "steps": 3, "samples": 12, "epochs": {planted.source: 1.5},
        "notes": [], "init": "random:test_resnet", "size": 32, "precision": "float32",
    }  # fmt: skip


def _task(root: Path, planted: Planted, task: str) -> dict[str, Any]:
    return {
        "asked": "",
        "task": "phase" if task == "phase" else planted.dense,
        "metric": "accuracy@pooled" if task == "phase" else "iou@dataset",
        "root": str(root / "labels"),
        "layout": "folder",
        "data": "d" * 16,
        "frames": FRAMES * len(planted.test_cases),
        "scheme": "train -> test",
        "test_cases": {"test": sorted(planted.test_cases)},
        "val_cases": {"test": []},
        "draws": {b: [{"test": [f"train{i}" for i in range(n)]}] for b, n in planted.budgets.items()},
        "scored": None,
        "precision": "float32",
    }


def _stage(store: Any, stages: dict[str, Any], name: str, kind: str, label: str, missing: Sequence[str]) -> None:
    parts = {"name": name, "kind": kind, "version": 1, "parent_backbone": None, "inputs": {}, "like": "", "work": 1.0}
    folder = store.folder(name)
    store.out(name).mkdir(parents=True, exist_ok=True)
    spec = {**parts, "parents": [], "config": {"backbone": ["weights=given"]}, "threads": None, "keep": "backbone"}
    (folder / "stage.yaml").write_text(yaml.safe_dump(spec))
    done = {**parts, "parents": [], "seconds": 36.0, "attempts": 1, "ended": 0.0, "host": "vm", "device": "cpu"}
    done |= {"git": "abc", "bytes": 0, "versions": {"trocar": "0.1.0"}, "sizes": {}, "outputs": {}}
    if name not in missing:
        (folder / "done.json").write_text(json.dumps(done))
    stages[name] = {"kind": kind, "parents": [], "label": label, "like": "", "work": 1.0}


def _backbone(folder: Path, seed: int) -> None:
    from trocar.backbones.export import save_backbone
    from trocar.backbones.load import load_backbone

    save_backbone(load_backbone("random:test_resnet", seed=seed), folder, extra={})


def _score(out: Path, planted: Planted, e: Mapping[str, Any]) -> None:
    """predictions.parquet and results.json of one evaluation."""
    from trocar.downstream.predictions.prediction_file import About, Predictions

    kind = "phase" if e["task"] == "phase" else planted.dense
    accuracy = {**planted.arms, **planted.given}[e["arm"]]
    tables = []
    for member in range(e["members"]):
        seed = member if e["seed"] is None else e["seed"]
        rows = _frames(planted).assign(
            task=kind,
            backbone="weights",
            kind="backbone",
            protocol=e["protocol"],
            fold="test",
            replicate=member,
            draw=0,
            start=0,
        )
        level = accuracy + planted.luck * (seed - (planted.seeds - 1) / 2)
        tables.append(_phases(rows, planted, level) if kind == "phase" else _masks(rows, out, level, member))
    classes = list(planted.classes if kind == "phase" else MASK_CLASSES)
    table = pd.concat(tables, ignore_index=True)
    Predictions(table, About({kind: classes}, 1.0), out / "predictions.parquet").write()
    labelled = planted.budgets[e["budget"]]
    detail = [[{"labelled_cases": {"count": labelled}}]] * e["members"]
    leak = planted.leak.get(e["arm"], {"verdict": "clean", "cases": [], "why": []})
    runs = [{"replicate": member, "draw": 0, "start": 0} for member in range(e["members"])]
    row = {"task": kind, "runs": runs, "detail": detail, "metrics": {}, "leak": leak}
    (out / "results.json").write_text(json.dumps({"rows": [row]}))


def _frames(planted: Planted) -> pd.DataFrame:
    cases = sorted(planted.test_cases)
    return pd.DataFrame(
        {"case": case, "video": case, "path": f"{place}_{k}.png", "frame": -1, "time_s": float(k), "place": place}
        for place, case in enumerate(cases)
        for k in range(FRAMES)
    )


def _phases(rows: pd.DataFrame, planted: Planted, level: float) -> pd.DataFrame:
    """The first frames of a case are right; over all cases as many as the level says."""
    gt = (rows["time_s"] * len(CLASSES) // FRAMES).to_numpy(np.int64)
    per_case, place = FRAMES * level, rows["place"].to_numpy()
    share = np.floor((place + 1) * per_case + 1e-9) - np.floor(place * per_case + 1e-9)
    right = rows["time_s"] < share + place % 3 - 1
    pred = np.where(right, gt, (gt + 1) % len(CLASSES))
    scores = [np.eye(len(CLASSES), dtype=np.float32)[p] * 0.8 + 0.1 * (np.arange(3) != p) for p in pred]
    found: pd.DataFrame = rows.drop(columns="place").assign(gt=gt, pred=pred, scores=scores)
    return found.assign(gt_labels=None, pred_labels=None)


def _masks(rows: pd.DataFrame, out: Path, level: float, member: int) -> pd.DataFrame:
    """The tool is a square of which the prediction has the upper part."""
    from trocar.downstream.metrics.outcome import confusions

    (out / "masks").mkdir(exist_ok=True)
    names, counts = [], []
    for k, place in zip(rows["time_s"].astype(int), rows["place"], strict=True):
        gt, pred = np.zeros((2, SIDE, SIDE * 4 // 3), np.uint8)
        gt[8:20, 8 + k : 20 + k] = 1
        pred[8 : 8 + round(12 * level), 8 + k : 20 + k] = 1
        files = [f"masks/gt-{place}-{k}.png", f"masks/{member}-{place}-{k}.png"]
        for file, mask in zip(files, (gt, pred), strict=True):
            Image.fromarray(mask).save(out / file)
        names.append(files)
        counts.append(confusions(gt[None], pred[None], 2)[0].ravel())
    found: pd.DataFrame = rows.drop(columns="place").assign(confusion=counts)
    return found.assign(gt_mask=[files[0] for files in names], pred_mask=[files[1] for files in names])
