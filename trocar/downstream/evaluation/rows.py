"""From scores to what is written: a row of the comparison, and the predictions it is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.evaluation.results import ResultRow
from trocar.downstream.metrics.outcome import Floats, Ints, Outcome, bootstrap_interval
from trocar.downstream.metrics.registry import REGISTRY
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import decide
from trocar.downstream.splits.folds import TRAIN_TEST, Fold
from trocar.downstream.tasks.base import Task


@dataclass(frozen=True)
class ContenderRun:
    """One run of an arm through all folds of a bench, and what it is called: scores [m, K] of `bench.rows` by task,
    what was chosen in each fold, and the folds with the labelled cases they had.
    """

    index: RunIndex
    member: str
    scores: Mapping[str, Floats]
    detail: list[Mapping[str, Any]]
    folds: list[Fold]


def outcome(bench: Experiment, task: Task, scores: Floats) -> Outcome:
    """What a metric sees: the labelled test frames of one task."""
    space, known = bench.space(task), bench.labelled(task)
    rows = bench.rows[known]
    values = task.targets(bench.data)[rows]
    case = np.unique(bench.case[rows], return_inverse=True)[1].astype(np.int64)
    gt = (values.round() if space.soft else values).astype(np.int64)
    return Outcome(
        gt,
        decide(space.kind, scores[known]),
        scores[known],
        case,
        time_s=bench.time_s[rows],
        fps=bench.fps,
        classes=space.classes,
        soft=values if space.soft else None,
        unscored=space.unscored,
        fold=fold_numbers(bench)[known],
    )


def fold_numbers(bench: Experiment) -> Ints:
    """The fold of every one of `bench.rows`, [m]."""
    return np.repeat(np.arange(len(bench.folds)), [len(fold.test) for fold in bench.folds]).astype(np.int64)


def make_row(
    arm: Contender, bench: Experiment, task: Task, protocol: str, runs: Sequence[ContenderRun], draws: int
) -> ResultRow:
    """The arm's line of the table for one task."""
    outcomes = [outcome(bench, task, run.scores[task.name]) for run in runs]
    assert task.per_class is not None
    per_class = np.mean([task.per_class[1](found) for found in outcomes], axis=0)
    classes = bench.space(task).classes
    return ResultRow(
        task=task.name,
        protocol=protocol,
        arm=arm.label,
        kind=arm.kind,
        members=[run.member for run in runs],
        runs=[run.index for run in runs],
        values={name: [_value(task, name, found) for found in outcomes] for name in task.metrics},
        interval=bootstrap_interval(task.metrics[task.headline], outcomes, draws=draws),
        per_class={c: None if np.isnan(v) else float(v) for c, v in zip(classes, per_class, strict=True)},
        detail=[details(bench, run.detail, run.folds) for run in runs],
    )


def _value(task: Task, name: str, found: Outcome) -> float:
    named = REGISTRY[task.name][name]
    return named.metric(found, None) if named.offered(found) else float("nan")


def prediction_table(arm: Contender, bench: Experiment, task: Task, protocol: str, run: ContenderRun) -> pd.DataFrame:
    """One row per test frame; `gt` and `pred` are class indices, `gt_labels` and `pred_labels` 0/1 per class."""
    known, space = bench.labelled(task), bench.space(task)
    table = test_frames(arm, bench, task, protocol, run.index)
    found = outcome(bench, task, run.scores[task.name])
    single, none = space.kind == "multiclass", [None] * len(found.gt)
    table["gt"] = pd.array(found.gt if single else none, dtype="Int64")
    table["pred"] = pd.array(found.pred if single else none, dtype="Int64")
    table["gt_labels"] = none if single else found.gt.tolist()
    table["pred_labels"] = none if single else found.pred.tolist()
    table["scores"] = list(found.scores.astype(np.float32))
    if space.soft:
        table["gt_soft"] = list(task.targets(bench.data)[bench.rows[known]].astype(np.float32))
    return table


def test_frames(arm: Contender, bench: Experiment, task: Task, protocol: str, run: RunIndex) -> pd.DataFrame:
    """The columns that say what a prediction is of: one row per test frame that carries the task's labels."""
    known = bench.labelled(task)
    names = {"task": task.name, "backbone": arm.label, "kind": arm.kind, "protocol": protocol, **run._asdict()}
    fold = np.array([fold.name for fold in bench.folds])[fold_numbers(bench)[known]]
    columns = ["case", "video", "path", "frame", "time_s"]
    frames: pd.DataFrame = bench.data.frames.iloc[bench.rows[known]][columns].reset_index(drop=True)
    about = pd.DataFrame({**names, "fold": fold}, index=frames.index)
    joined: pd.DataFrame = pd.concat([about, frames], axis=1)
    return joined


def about_task(bench: Experiment, task: Task) -> dict[str, Any]:
    """What was scored on which frames, for results.json."""
    space, known = bench.space(task), bench.labelled(task)
    rows = bench.rows[known]
    counts = class_counts(bench, task)
    return {
        "headline": task.in_tables(space)[0],
        "metrics": list(task.in_tables(space)),
        "per_class": task.per_class[0] if task.per_class is not None else "iou",
        "classes": list(space.classes),
        "unscored": [space.classes[i] for i in space.unscored],
        **({"background": space.background_name} if space.kind == "mask" else {}),
        "fps": bench.fps,
        "counts": counts,
        "absent": [name for name, n in counts.items() if n == 0],
        "scheme": bench.scheme,
        "budget": bench.budget,
        "folds": [
            {"name": f.name, **{f"{side}_cases": _cases(bench, getattr(f, side)) for side in ("train", "val", "test")}}
            for f in bench.folds
        ],
        "frames": len(rows),
        "cases": len(np.unique(bench.case[rows])),
        "incomplete": _incomplete(bench, task),
    }


def _incomplete(bench: Experiment, task: Task) -> str | None:
    """What of the official test set is not here: frames where their number is known, else videos of the list."""
    # Without a split every frame is tested: then it is the number in all that counts.
    split = "test" if bench.scheme == TRAIN_TEST else ""
    missing = bench.data.missing(task.name, split)
    if missing is not None:
        return f"incomplete ({missing[0]:,} of {missing[1]:,} {' '.join(['official', *split.split(), 'frames'])})"
    here, listed = bench.data.listed.get(split, (0, 0))
    known = (task.name, split) in bench.data.official
    return None if known or here == listed else f"incomplete ({here} of {listed} official {split} videos)"


def class_counts(bench: Experiment, task: Task) -> dict[str, int]:
    """Labelled test frames of every class; empty for masks, which are counted when they are scored."""
    if "mask" in bench.kinds:
        return {}
    values, space = task.targets(bench.data)[bench.rows[bench.labelled(task)]], bench.space(task)
    if space.kind == "multiclass":
        counts = np.bincount(values.astype(np.int64), minlength=len(space.classes))
    else:
        counts = values.round().sum(0)
    return {name: int(n) for name, n in zip(space.classes, counts, strict=True)}


def details(bench: Experiment, chosen: Sequence[Mapping[str, Any]], folds: Sequence[Fold]) -> list[Mapping[str, Any]]:
    """What was chosen in each fold, with the operations whose labels were used, those of validation included."""
    found: list[Mapping[str, Any]] = []
    for detail, fold in zip(chosen, folds, strict=True):
        train, val = _cases(bench, fold.train), _cases(bench, fold.val)
        found.append({**detail, "labelled_cases": {"train": train, "val": val, "count": len(train) + len(val)}})
    return found


def _cases(bench: Experiment, rows: np.ndarray) -> list[str]:
    return sorted(set(bench.data.frames["case"].to_numpy(str)[rows].tolist()))
