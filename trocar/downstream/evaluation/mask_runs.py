"""Masks scored: confusions of every test image, the predicted masks on disk, and the rows of the table."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from trocar.core.files import write_atomic
from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.evaluation.result_cache import Finished
from trocar.downstream.evaluation.results import ResultRow
from trocar.downstream.evaluation.rows import details, test_frames
from trocar.downstream.features.frame_cache import Size, decoded
from trocar.downstream.labels import Mask
from trocar.downstream.metrics.outcome import Ints, bootstrap_interval
from trocar.downstream.metrics.segmentation import image_scores, per_class, row_mean
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome, confusions
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import Problem, Solution
from trocar.downstream.protocols.segmentation import MaskProtocol, SizeOf, read_mask
from trocar.downstream.segmentation.overlay import draw_overlays, ranked
from trocar.downstream.splits.folds import Fold
from trocar.downstream.tasks.segmentation import SegmentationTask

GROUND_TRUTH = "gt"


@dataclass(frozen=True)
class MaskRun:
    """One run through all folds, and what it is called: confusions int64 [m, K, K] of `bench.rows`, and the files of
    the predicted masks relative to the output folder ('' where none are kept).
    """

    index: RunIndex
    member: str
    confusions: Ints
    files: list[str]
    detail: list[dict[str, Any]]
    folds: list[Fold]


@dataclass(frozen=True)
class Shelf:
    """Masks on disk: PNGs whose value is the class index, `masks/<folder>/<row of the table>.png` below `out`."""

    out: Path | None

    def put(self, folder: str, row: int, mask: Mask) -> str:
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
    shelf: Shelf,
    finished: Finished,
) -> MaskRun:
    """Fit and predict fold by fold; every mask is scored at the size of its ground truth, then let go."""
    folder = file_stem(arm, protocol.label, member)
    found = [
        finished.solve(protocol, one, partial(_segmented, protocol, one, shelf, folder), partial(shelf.has, folder))
        for one in problems
    ]
    files = [name for one in found for name in one.words["files"]]
    counts = np.concatenate([one.arrays["confusions"] for one in found])
    return MaskRun(index, member, counts, files, [one.words["detail"] for one in found], folds)


def _segmented(protocol: MaskProtocol, problem: Problem, shelf: Shelf, folder: str) -> Solution:
    # Masks come in the order they are asked for, so the last one is the one that is needed again.
    truth = lru_cache(maxsize=1)(partial(read_mask, problem))
    segmented = protocol.segment(problem, _size_of(truth))
    counts, files = [], []
    for row, mask in segmented.masks:
        counts.append(confusions(truth(row)[None], mask[None], len(problem.space.classes))[0])
        shelf.put(GROUND_TRUTH, row, truth(row))
        files.append(shelf.put(folder, row, mask))
    return Solution({"confusions": np.stack(counts)}, {"files": files, "detail": dict(segmented.detail)})


def _size_of(read: Callable[[int], Mask]) -> SizeOf:
    def size(row: int) -> tuple[int, int]:
        height, width = read(row).shape
        return height, width

    return size


def outcome(bench: Experiment, run: MaskRun) -> SegmentationOutcome:
    """What a metric sees."""
    case = np.unique(bench.case[bench.rows], return_inverse=True)[1].astype(np.int64)
    space = bench.space(bench.tasks[0])
    return SegmentationOutcome(run.confusions, case, space.classes, background=space.background)


def make_mask_row(
    arm: Contender, bench: Experiment, task: SegmentationTask, protocol: str, runs: list[MaskRun], draws: int
) -> ResultRow:
    """The arm's line of the table."""
    outcomes = [outcome(bench, run) for run in runs]
    mean = row_mean(np.stack([per_class(found) for found in outcomes], axis=1))
    metrics = task.mask_metrics(bench.space(task))
    lead, *_ = metrics.values()
    return ResultRow(
        task=task.name,
        protocol=protocol,
        arm=arm.label,
        kind=arm.kind,
        members=[run.member for run in runs],
        runs=[run.index for run in runs],
        values={name: [metric(found, None) for found in outcomes] for name, metric in metrics.items()},
        interval=bootstrap_interval(lead, outcomes, draws=draws),
        per_class={c: None if np.isnan(v) else float(v) for c, v in zip(outcomes[0].classes, mean, strict=True)},
        detail=[details(bench, run.detail, run.folds) for run in runs],
    )


def mask_table(arm: Contender, bench: Experiment, protocol: str, run: MaskRun) -> pd.DataFrame:
    """One row per test image: `gt_mask` and `pred_mask` are PNGs beside the table, `confusion` K x K pixel counts, row
    by row, the ground truth first.
    """
    table = test_frames(arm, bench, bench.tasks[0], protocol, run.index)
    table["pred_mask"] = run.files
    table["gt_mask"] = [f"masks/{GROUND_TRUTH}/{row:07d}.png" if run.files[0] else "" for row in bench.rows]
    table["confusion"] = [counts.ravel() for counts in run.confusions]
    return table


def images_with_class(bench: Experiment, run: MaskRun) -> dict[str, int]:
    """Test images whose ground truth has the class."""
    present = (run.confusions.sum(2) > 0).sum(0)
    return {name: int(n) for name, n in zip(bench.space(bench.tasks[0]).classes, present, strict=True)}


def draw_masks(bench: Experiment, run: MaskRun, out: Path, path: Path, private: Collection[str] = ()) -> list[Path]:
    """Best, median and worst image of a run, from the masks on disk, of cases that are not `private`, in a picture at
    `path`; no picture where no such image has a score.
    """
    found = outcome(bench, run)
    open_rows = ~bench.data.frames["case"].iloc[bench.rows].isin(private).to_numpy(bool)
    scores = np.where(open_rows, image_scores(found), np.nan)
    if np.isnan(scores).all():
        return []
    places = np.array(sorted(set(ranked(scores).values())))
    rows = bench.rows[places]
    gt = [np.array(Image.open(out / f"masks/{GROUND_TRUTH}/{row:07d}.png")) for row in rows]
    pred = [np.array(Image.open(out / run.files[place])) for place in places]
    few = replace(bench.data, frames=bench.data.frames.iloc[rows].reset_index(drop=True))
    shapes: list[Size] = [(mask.shape[0], mask.shape[1]) for mask in gt]
    images = {row: at_sizes[row] for row, at_sizes in decoded(few, shapes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_overlays(
        [images[i] for i in range(len(rows))],
        gt,
        pred,
        scores[places],
        found.classes,
        path,
        background=found.background,
    )
    return [path]
