"""From scores to what is written: predictions, masks on disk and pictures of some, and what is said of the task.

Of masks it is the confusions of every test image.

In mlflow it is one run with the configuration and files, and below it one for every row of the tables. The folder of
the evaluation is the record, as that of a pretraining: mlflow may be away, and `trocar track sync OUT` brings it up to
date later.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.evaluation.result_cache import Finished
from trocar.downstream.evaluation.results import EvaluationResults, ResultRow
from trocar.downstream.features.frame_cache import Size, decoded
from trocar.downstream.folds import TRAIN_TEST, Fold
from trocar.downstream.labels import Mask
from trocar.downstream.metrics.outcome import Floats, Ints, confusions
from trocar.downstream.metrics.segmentation import row_mean, scores_of
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import Problem, Solution, decide
from trocar.downstream.protocols.segmentation import MaskProtocol, SizeOf, read_mask
from trocar.downstream.segmentation.predict import draw_overlays, ranked
from trocar.downstream.tasks.base import Task
from trocar.errors import TrocarError
from trocar.privacy.aliases import withhold
from trocar.runs.mlflow_follower import may_follow
from trocar.runs.mlflow_server import PARTS, describe, resolve_uri
from trocar.runs.run_folder import Run, read_config, read_metrics


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


GROUND_TRUTH = "gt"


@dataclass(frozen=True)
class MaskWriter:
    """Masks on disk: PNGs whose value is the class index, `masks/<folder>/<row of the table>.png` below `out`."""

    out: Path | None

    def write(self, folder: str, row: int, mask: Mask) -> str:
        """Write a mask, unless nothing is kept; returns its name relative to `out`."""
        if self.out is None:
            return ""
        name = f"masks/{folder}/{row:07d}.png"
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, format="PNG", compress_level=1)
        write_atomic(self.out / name, buffer.getvalue(), sync=False)
        return name

    def has(self, folder: str, solution: Solution) -> bool:
        """Whether the masks of a solution are here, under the name that its arm has now."""
        names = [Path(name) for name in solution.words["files"]]
        truths = [name.parent.with_name(GROUND_TRUTH) / name.name for name in names]
        named = all(name.parent.name == folder for name in names)
        return self.out is not None and named and all((self.out / name).is_file() for name in (*names, *truths))


def file_stem(*words: str) -> str:
    """A name for a file or folder: the words as far as files can have them, and 8 digits that tell apart what then
    looks alike.
    """
    plain = "-".join(re.sub(r"[^A-Za-z0-9.+]+", "_", word).strip("_.") for word in words)
    return f"{plain[:120]}-{hashlib.sha256(repr(words).encode()).hexdigest()[:8]}"


def run_masks(
    index: RunIndex,
    member: str,
    arm: str,
    bench: Experiment,
    folds: list[Fold],
    protocol: MaskProtocol,
    problems: Iterator[Problem],
    writer: MaskWriter,
    finished: Finished,
) -> ContenderRun:
    """Fit and predict fold by fold; every mask is compared with its ground truth at that one's size, then let go.

    The payload has `gt_mask` and `pred_mask`, PNGs beside the predictions ('' where none are kept), and `confusion`,
    K x K pixel counts, row by row, the ground truth first.
    """
    found = solve_masks(member, arm, protocol, problems, writer, finished)
    files = [name for one in found for name in one.words["files"]]
    counts = np.concatenate([one.arrays["confusions"] for one in found])
    payload = {
        "pred_mask": files,
        "gt_mask": [f"masks/{GROUND_TRUTH}/{row:07d}.png" if files[0] else "" for row in bench.rows],
        "confusion": [one.ravel() for one in counts],
    }
    details = [one.words["detail"] for one in found]
    return ContenderRun(index, member, {bench.tasks[0].name: payload}, details, folds)


def solve_masks(
    member: str,
    arm: str,
    protocol: MaskProtocol,
    problems: Iterator[Problem],
    writer: MaskWriter,
    finished: Finished,
) -> list[Solution]:
    """Of each problem the confusions of its test images, the names of their masks, and what was chosen."""
    folder = file_stem(arm, protocol.label, member)
    return [
        finished.solve(protocol, one, partial(_segmented, protocol, one, writer, folder), partial(writer.has, folder))
        for one in problems
    ]


def _segmented(protocol: MaskProtocol, problem: Problem, writer: MaskWriter, folder: str) -> Solution:
    # Masks come in the order they are asked for, so the last one is the one that is needed again.
    truth = lru_cache(maxsize=1)(partial(read_mask, problem))
    segmented = protocol.segment(problem, _size_of(truth))
    counts, files = [], []
    for row, mask in segmented.masks:
        counts.append(confusions(truth(row)[None], mask[None], len(problem.space.classes))[0])
        writer.write(GROUND_TRUTH, row, truth(row))
        files.append(writer.write(folder, row, mask))
    return Solution({"confusions": np.stack(counts)}, {"files": files, "detail": dict(segmented.detail)})


def _size_of(read: Callable[[int], Mask]) -> SizeOf:
    def size(row: int) -> tuple[int, int]:
        height, width = read(row).shape
        return height, width

    return size


def draw_masks(
    bench: Experiment, run: ContenderRun, out: Path, path: Path, private: Collection[str] = ()
) -> list[Path]:
    """Best, median and worst image of a run, from the masks on disk, of cases that are not `private`, in a picture at
    `path`; no picture where no such image has a score.
    """
    task = bench.tasks[0]
    payload, space = run.payloads[task.name], bench.space(task)
    counts = np.stack(payload["confusion"]).reshape(-1, len(space.classes), len(space.classes))
    open_rows = ~bench.data.frames["case"].iloc[bench.rows].isin(private).to_numpy(bool)
    scores = np.where(open_rows, row_mean(scores_of(counts)), np.nan)
    if np.isnan(scores).all():
        return []
    places = np.array(sorted(set(ranked(scores).values())))
    rows = bench.rows[places]
    gt, pred = (
        [np.array(Image.open(out / payload[name][place])) for place in places] for name in ("gt_mask", "pred_mask")
    )
    few = replace(bench.data, frames=bench.data.frames.iloc[rows].reset_index(drop=True))
    shapes: list[Size] = [(mask.shape[0], mask.shape[1]) for mask in gt]
    images = {row: at_sizes[row] for row, at_sizes in decoded(few, shapes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [images[i] for i in range(len(rows))]
    draw_overlays(shown, gt, pred, scores[places], space.classes, path, background=space.background)
    return [path]


def track(
    results: EvaluationResults,
    out: Path,
    settings: Mapping[str, Any],
    uri: str,
    experiment: str,
    say: Say,
) -> None:
    """Record the results as runs below `out`, and log them in `experiment` of the tracking URI, or `sqlite` for the
    file beside `out`. `settings` are the configuration, as JSON values.

    Trouble with mlflow is said and stops nothing.
    """
    record(results, out, settings)
    server = None if uri == "sqlite" else uri
    if not may_follow(resolve_uri(out, server), os.environ):
        say(f"mlflow is not written to from SLURM jobs without a server: run `trocar track sync {out}`")
        return
    say("mlflow")
    try:
        from trocar.runs.mlflow_sync import sync

        sync(out, server, experiment)
    except TrocarError as error:
        say(f"mlflow: {error}")


def record(results: EvaluationResults, out: Path, settings: Mapping[str, Any]) -> None:
    """Make `out` a run folder, and one in it for every row of the tables; what has not changed is left as it is.

    Rows that an earlier evaluation had and this one has not stay: they were measured.
    """
    _log(out, settings, {"rows": float(len(results.rows))})
    describe(out, out.name, {"kind": "evaluation", "data": str(results.data["layout"])})
    for row in results.rows:
        about = results.tasks[row.task]
        folder = out / PARTS / file_stem(*map(results.hidden.text, (row.task, row.protocol, row.arm)))
        _log(folder, {}, _values(row, str(about["headline"])))
        describe(folder, f"{row.arm}: {row.task}, {row.protocol}", _labels(row, about, results.data))
        withhold(folder, results.hidden.names, results.hidden.cases, results.hidden.table)


def _labels(row: ResultRow, about: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
    """What rows are grouped and filtered by."""
    return {
        "arm": row.arm,
        "kind": row.kind,
        "task": row.task,
        "protocol": row.protocol,
        "budget": str(about["budget"] or "all labels"),
        "seeds": str(len(row.members)),
        "data": str(data["layout"]),
        "leak": str(row.leak.get("verdict", "")),
    }


def _values(row: ResultRow, headline: str) -> dict[str, float]:
    """The mean of every metric over the runs of a row, and the interval of its headline."""
    values = {name.replace("@", "_"): row.mean(name) for name in row.values}
    if row.interval is not None:
        values |= {
            f"{headline.replace('@', '_')}_{end}": x for end, x in zip(("low", "high"), row.interval, strict=True)
        }
    return values


def _log(folder: Path, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
    """One step a result: mlflow keeps the first value of a step, so that what has changed needs another one."""
    known = read_metrics(folder)[-1:] if (folder / "run.json").is_file() else []
    if known and _same(known[0], values) and (not settings or read_config(folder) == dict(settings)):
        return
    with Run.open(folder, settings) as run:
        run.log(run.attempt - 1, values)


def _same(known: Mapping[str, Any], values: Mapping[str, float]) -> bool:
    found = {name: value for name, value in known.items() if name != "step"}
    return repr(sorted(found.items())) == repr(sorted((name, float(value)) for name, value in values.items()))
