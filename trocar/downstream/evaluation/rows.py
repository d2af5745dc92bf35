"""From scores to what is written: the predictions of a run, and what is said of the task and of what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import decide
from trocar.downstream.splits.folds import TRAIN_TEST, Fold
from trocar.downstream.tasks.base import Task


@dataclass(frozen=True)
class ContenderRun:
    """One run of an arm through all folds of a bench, and what it is called: the payload of its predictions by task
    (the columns of `frame_payload` or of masks, a row per labelled test frame), what was chosen in each fold, and the
    folds with the labelled cases they had.
    """

    index: RunIndex
    member: str
    payloads: Mapping[str, Mapping[str, Any]]
    detail: list[Mapping[str, Any]]
    folds: list[Fold]


def frame_payload(bench: Experiment, task: Task, scores: Floats) -> dict[str, Any]:
    """Columns for the labelled test frames from `scores` [m, K] of `bench.rows`: `gt` and `pred` are class indices,
    `gt_labels` and `pred_labels` 0 and 1 per class.
    """
    space, known = bench.space(task), bench.labelled(task)
    values = task.targets(bench.data)[bench.rows[known]]
    gt = (values.round() if space.soft else values).astype(np.int64)
    pred = decide(space.kind, scores[known])
    single, none = space.kind == "multiclass", [None] * len(gt)
    return {
        "gt": pd.array(gt if single else none, dtype="Int64"),
        "pred": pd.array(pred if single else none, dtype="Int64"),
        "gt_labels": none if single else gt.tolist(),
        "pred_labels": none if single else pred.tolist(),
        "scores": list(scores[known].astype(np.float32)),
        **({"gt_soft": list(values.astype(np.float32))} if space.soft else {}),
    }


def prediction_table(arm: Contender, bench: Experiment, task: Task, protocol: str, run: ContenderRun) -> pd.DataFrame:
    """Rows of `Predictions`: one per test frame that carries the task's labels."""
    known = bench.labelled(task)
    names = {"task": task.name, "backbone": arm.label, "kind": arm.kind, "protocol": protocol, **run.index._asdict()}
    fold = np.array([fold.name for fold in bench.folds])[fold_numbers(bench)[known]]
    columns = ["case", "video", "path", "frame", "time_s"]
    frames: pd.DataFrame = bench.data.frames.iloc[bench.rows[known]][columns].reset_index(drop=True)
    about = pd.DataFrame({**names, "fold": fold}, index=frames.index)
    joined: pd.DataFrame = pd.concat([about, frames], axis=1).assign(**run.payloads[task.name])
    return joined


def fold_numbers(bench: Experiment) -> Ints:
    """The fold of every one of `bench.rows`, [m]."""
    return np.repeat(np.arange(len(bench.folds)), [len(fold.test) for fold in bench.folds]).astype(np.int64)


def about_task(bench: Experiment, task: Task) -> dict[str, Any]:
    """What was scored on which frames, for results.json; how often classes occur is told when it is scored."""
    space, known = bench.space(task), bench.labelled(task)
    rows = bench.rows[known]
    return {
        "headline": task.in_tables(space)[0],
        "metrics": list(task.in_tables(space)),
        "per_class": task.per_class[0],
        "classes": list(space.classes),
        "unscored": [space.classes[i] for i in space.unscored],
        **({"background": space.background_name} if space.kind == "mask" else {}),
        "fps": bench.fps,
        "scheme": bench.scheme,
        "budget": bench.budget.words,
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


def details(bench: Experiment, chosen: Sequence[Mapping[str, Any]], folds: Sequence[Fold]) -> list[Mapping[str, Any]]:
    """What was chosen in each fold, with the operations whose labels were used, those of validation included."""
    found: list[Mapping[str, Any]] = []
    for detail, fold in zip(chosen, folds, strict=True):
        train, val = _cases(bench, fold.train), _cases(bench, fold.val)
        found.append({**detail, "labelled_cases": {"train": train, "val": val, "count": len(train) + len(val)}})
    return found


def _cases(bench: Experiment, rows: np.ndarray) -> list[str]:
    return sorted(set(bench.data.frames["case"].to_numpy(str)[rows].tolist()))
