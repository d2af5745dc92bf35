"""Compare frozen backbones on labelled frames: the same folds, protocols and metrics for every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from trocar.backbones.embed import choose_device
from trocar.downstream.arms import Arm, Member, expand
from trocar.downstream.baselines import BASELINES
from trocar.downstream.baselines.base import SIZE
from trocar.downstream.config import EvaluateConfig
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.features import Features, cache_folder, cached_features
from trocar.downstream.folds import Fold, make_folds
from trocar.downstream.frames import FrameCache
from trocar.downstream.metrics.interval import bootstrap_interval
from trocar.downstream.metrics.outcome import Floats, Ints, Outcome
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import Prediction, Protocol, TrainingSet, decide
from trocar.downstream.protocols.prior import prior
from trocar.downstream.results import Results, Row
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import Task

NO_PROTOCOL = "prior"
# Below this many feature values BLAS threads wait for each other longer than they compute, above all on a busy machine.
SMALL = 20_000_000


@dataclass(frozen=True)
class Bench:
    """One task on one data set: its folds, targets and cases. `rows` are the test frames of all folds, in
    fold order.
    """

    task: Task
    data: LabelledFrames
    scheme: str
    folds: list[Fold]
    targets: Ints
    case: Ints

    @property
    def rows(self) -> Ints:
        """Row numbers of all test frames, each once."""
        return np.concatenate([fold.test for fold in self.folds])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.task.classes(self.data)


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = lambda _: None) -> Results:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `say` gets a line of text for every step that takes long. Raises ConfigError for a bad configuration
    before anything is decoded, TrocarError for data that cannot be read.
    """
    tasks, protocols = [get_task(name) for name in config.task], {name: get_protocol(name) for name in config.protocol}
    device = choose_device(config.device)
    options = DatasetOptions(fps=config.fps, phases=tuple(config.phases), split=config.split)
    data = open_dataset(config.data, config.layout, options)
    benches = [_bench(task, data, str(config.folds)) for task in tasks]
    arms = expand(config)
    frames = FrameCache(data, cache_folder(config.out, config.cache))
    say(f"{data.layout}: {len(data)} labelled frames of {data.frames['case'].nunique()} cases in {data.root}")
    for note in data.notes:
        say(f"note: {note}")
    frames.prepare([SIZE, *(member.size for arm in arms for member in arm.members if member.size)])
    rows, predictions = [], []
    for arm in arms:
        say(arm.label)
        found, table = _score_arm(arm, benches, protocols, frames, config, device)
        rows += found
        predictions += table
    results = Results(_about(data), {b.task.name: _about_task(b) for b in benches}, _ordered(rows, config), pd.concat(
        predictions, ignore_index=True))  # fmt: skip
    if config.out is not None:
        results.write(config.out)
    return results


def _bench(task: Task, data: LabelledFrames, scheme: str) -> Bench:
    named, folds = make_folds(data, scheme, task.rows(data))
    case = np.unique(data.frames["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    return Bench(task, data, named, folds, task.targets(data), case)


def _score_arm(
    arm: Arm,
    benches: list[Bench],
    protocols: dict[str, Protocol],
    frames: FrameCache,
    config: EvaluateConfig,
    device: str,
) -> tuple[list[Row], list[pd.DataFrame]]:
    used = {NO_PROTOCOL: prior} if arm.kind == "majority" else protocols
    features = [_features(arm, member, frames, config.batch, device) for member in arm.members]
    rows, tables = [], []
    for bench in benches:
        for name, protocol in used.items():
            runs = [_run_folds(bench, protocol, x) for x in features]
            rows.append(_row(arm, bench, name, runs, config.bootstrap))
            tables += [
                _prediction_table(arm, seed, bench, name, prediction.scores)
                for seed, (prediction, _) in enumerate(runs)
            ]
    return rows, tables


def _features(arm: Arm, member: Member, frames: FrameCache, batch: int, device: str) -> Features:
    if member.model is not None:
        return cached_features(member.model(), frames, member.size, batch=batch, device=device)
    if arm.kind == "majority":
        return np.zeros((len(frames.data), 1), dtype=np.float32)
    return BASELINES[member.name](frames)


def _run_folds(bench: Bench, protocol: Protocol, features: Features) -> tuple[Prediction, list[Any]]:
    """Scores of all test frames in the order of `bench.rows`, and what the protocol chose in each fold."""
    found = []
    with threadpool_limits(limits=1 if features.size < SMALL else None):
        for fold in bench.folds:
            x = features[fold.train].astype(np.float64)
            train = TrainingSet(x, bench.targets[fold.train], bench.case[fold.train], len(bench.classes))
            found.append(protocol(bench.task, train, features[fold.test].astype(np.float64)))
    return Prediction(np.concatenate([p.scores for p in found])), [dict(p.detail) for p in found]


def _outcome(bench: Bench, scores: Floats) -> Outcome:
    case = np.unique(bench.case[bench.rows], return_inverse=True)[1].astype(np.int64)
    return Outcome(bench.targets[bench.rows], decide(bench.task.kind, scores), scores, case)


def _row(arm: Arm, bench: Bench, protocol: str, runs: list[tuple[Prediction, list[Any]]], draws: int) -> Row:
    outcomes = [_outcome(bench, prediction.scores) for prediction, _ in runs]
    metrics = bench.task.metrics
    per_class = np.mean([bench.task.per_class[1](outcome) for outcome in outcomes], axis=0)
    return Row(
        task=bench.task.name,
        protocol=protocol,
        arm=arm.label,
        kind=arm.kind,
        members=[member.name for member in arm.members],
        values={name: [metric(outcome, None) for outcome in outcomes] for name, metric in metrics.items()},
        interval=bootstrap_interval(metrics[bench.task.headline], outcomes, draws=draws),
        per_class={c: None if np.isnan(v) else float(v) for c, v in zip(bench.classes, per_class, strict=True)},
        detail=[detail for _, detail in runs],
    )


def _prediction_table(arm: Arm, seed: int, bench: Bench, protocol: str, scores: Floats) -> pd.DataFrame:
    """One row per test frame; `gt` and `pred` are class indices, `gt_labels` and `pred_labels` 0/1 per
    class.
    """
    columns = ["case", "video", "path", "frame", "time_s"]
    table: pd.DataFrame = bench.data.frames.iloc[bench.rows][columns].reset_index(drop=True)
    gt, pred = bench.targets[bench.rows], decide(bench.task.kind, scores)
    single = bench.task.kind == "multiclass"
    names: dict[str, str | int] = {
        "task": bench.task.name,
        "backbone": arm.label,
        "kind": arm.kind,
        "protocol": protocol,
        "seed": seed,
    }
    for place, (name, value) in enumerate(names.items()):
        table.insert(place, name, value)
    table.insert(5, "fold", np.repeat([fold.name for fold in bench.folds], [len(fold.test) for fold in bench.folds]))
    table["gt"] = pd.array(gt if single else [None] * len(gt), dtype="Int64")
    table["pred"] = pd.array(pred if single else [None] * len(pred), dtype="Int64")
    table["gt_labels"] = [None] * len(gt) if single else gt.tolist()
    table["pred_labels"] = [None] * len(pred) if single else pred.tolist()
    table["scores"] = list(scores.astype(np.float32))
    return table


def _about(data: LabelledFrames) -> dict[str, Any]:
    return {
        "root": str(data.root),
        "layout": data.layout,
        "fingerprint": data.fingerprint,
        "frames": len(data),
        "cases": int(data.frames["case"].nunique()),
        "videos": int(data.frames["video"].nunique()),
        "notes": list(data.notes),
    }


def _about_task(bench: Bench) -> dict[str, Any]:
    gt = bench.targets[bench.rows]
    counts = np.bincount(gt, minlength=len(bench.classes)) if gt.ndim == 1 else gt.sum(0)
    return {
        "headline": bench.task.headline,
        "metrics": list(bench.task.metrics),
        "per_class": bench.task.per_class[0],
        "classes": list(bench.classes),
        "counts": {name: int(n) for name, n in zip(bench.classes, counts, strict=True)},
        "absent": [name for name, n in zip(bench.classes, counts, strict=True) if n == 0],
        "scheme": bench.scheme,
        "folds": [
            {"name": f.name, "train_cases": _cases(bench, f.train), "test_cases": _cases(bench, f.test)}
            for f in bench.folds
        ],
        "frames": len(gt),
        "cases": len(_cases(bench, bench.rows)),
    }


def _cases(bench: Bench, rows: Ints) -> list[str]:
    return sorted(set(bench.data.frames["case"].to_numpy(str)[rows].tolist()))


def _ordered(rows: list[Row], config: EvaluateConfig) -> list[Row]:
    """By task, then protocol, keeping the order of arms."""
    protocols = [*config.protocol, NO_PROTOCOL]
    return sorted(rows, key=lambda row: (config.task.index(row.task), protocols.index(row.protocol)))
