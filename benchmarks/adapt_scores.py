"""What `adapt.py` makes of predictions: arms with their runs, the choice, tested differences and tables.

Intervals are those of studies: 95 % over runs and test cases, crossed; differences are paired over cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.data.labelled_data import LabelledFolder
from trocar.downstream.metrics.outcome import SegmentationOutcome, of_cases
from trocar.downstream.predictions.prediction_file import About, Predictions
from trocar.downstream.predictions.prediction_scores import outcomes
from trocar.downstream.probing.dense_probe import DenseProbe
from trocar.downstream.probing.probed_frames import choose_frames
from trocar.downstream.tasks import get_task
from trocar.ssl.engine.probe import Spread
from trocar.study.statistics.contrasts import ScoredTask, declared_contrasts
from trocar.study.statistics.crossed import Crossed, Estimate, crossed
from trocar.study.statistics.resample import Arm, combine

FIRST, RANDOM = "first", "random"
TOOLS, PHASE = ("tools", "linear"), ("phase", "linear")
COLUMNS = (TOOLS, ("tools", "knn"), PHASE, ("phase", "knn"))
HEADS = ("tools, linear", "tools, k-NN", "phase, linear", "phase, k-NN")
DENSE_FRAMES, DENSE_SIZE = 600, 224

Cell = tuple[str, str]
"""A task and a protocol."""


@dataclass(frozen=True)
class Arms:
    """Evaluated arms, several in a folder; random weights are in that of the first weights."""

    folder: Path

    @property
    def names(self) -> list[str]:
        """All that are there."""
        return [*self._tables]

    def predictions(self, name: str) -> pd.DataFrame:
        """Rows of one arm."""
        return self._tables[name]

    @property
    def about(self) -> About:
        """What the predictions have in common."""
        return next(read(path.parent).about for path in sorted(self.folder.glob("*/arms.json")))

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        found: dict[str, pd.DataFrame] = {}
        for path in sorted(self.folder.glob("*/arms.json")):
            table = read(path.parent).table
            called = table["backbone"].where(~table["backbone"].str.startswith(RANDOM), RANDOM)
            found |= {str(name): rows for name, rows in table.groupby(called, sort=False)}
        return found

    def arm(self, name: str, cell: Cell) -> Arm[Any]:
        """One arm with its runs on a task by a protocol."""
        return arm_of(name, self.predictions(name), self.about, cell)

    def crossed(self, names: Sequence[str], cell: Cell) -> Crossed:
        """Of those arms the task's headline, on the same draws of cases."""
        return crossed([self.arm(name, cell) for name in names], metric(cell[0]))


@cache
def read(folder: Path) -> Predictions:
    """What an evaluation predicted."""
    return Predictions.read(folder / "predictions.parquet")


def arm_of(name: str, rows: pd.DataFrame, about: About, cell: Cell) -> Arm[Any]:
    """`rows` of one arm; each replicate is a run."""
    wanted = rows[(rows["task"] == cell[0]) & (rows["protocol"] == cell[1])]
    found = outcomes(Predictions(wanted, about, Path(name)))
    return Arm(name, tuple((outcome,) for outcome in found.values()), fixed=name == FIRST)


def metric(task: str) -> Any:
    """The headline of a task."""
    return get_task(task).named[get_task(task).headline].metric


def chosen_by(arms: Arms, rates: Sequence[float], lengths: Sequence[int]) -> tuple[float, int]:
    """Rate and length with the highest mean over seeds of tools by a linear probe."""
    points = [(rate, length) for rate in rates for length in lengths]
    names = [f"{rate:g} at {length}" for rate, length in points]
    table = arms.crossed(names, TOOLS)
    return max(zip(points, names, strict=True), key=lambda entry: table[entry[1]].value)[0]


def rate_map(arms: Arms, rates: Sequence[float], lengths: Sequence[int]) -> str:
    """Markdown: for both tasks by a linear probe one line per rate and one column per length."""
    names = [f"{rate:g} at {length}" for rate in rates for length in lengths]
    lines = []
    for cell, head in ((TOOLS, "tools, mAP"), (PHASE, "phase, macro F1")):
        table = arms.crossed([*names, FIRST], cell)
        lines += ["", f"{head}: first weights {table.arm(FIRST).value:.3f}", ""]
        lines += ["| rate | " + " | ".join(f"{length} steps" for length in lengths) + " |"]
        lines += ["|---" * (len(lengths) + 1) + "|"]
        for rate in rates:
            found = [
                f"{table.arm(f'{rate:g} at {length}').value:.3f} ({said(table, f'{rate:g} at {length}', FIRST)})"
                for length in lengths
            ]
            lines.append(f"| {rate:g} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def said(table: Crossed, a: str, b: str) -> str:
    """A difference with its interval."""
    return shown(table.difference(a, b))


def shown(difference: Estimate) -> str:
    """With sign."""
    return f"{difference.value:+.3f}, {difference.low:+.3f} to {difference.high:+.3f}"


def best_minus_last(arms: Arms, rates: Sequence[float], last: int) -> str:
    """Markdown: what `keep: best` was worth on cases that neither the run nor its probe saw, run by run."""
    lines = ["", "| rate | tools, linear: best - last | 95 % |", "|---|---|---|"]
    for rate in rates:
        best, end = f"{rate:g} best", f"{rate:g} at {last}"
        table = arms.crossed([best, end], TOOLS)
        both = combine("best - last", [(1.0, table[best]), (-1.0, table[end])])
        found = Crossed({"best - last": both}).arm("best - last")
        lines.append(f"| {rate:g} | {found.value:+.3f} | {found.low:+.3f} to {found.high:+.3f} |")
    return "\n".join(lines)


def tested_table(arms: Arms, contrasts: Sequence[Sequence[str]]) -> str:
    """Markdown: all arms, and the declared differences in tools by a linear probe. Those whose arms are not all there
    are listed, and the tests of the others wait for them: Holm's correction is over all.
    """
    there = arms.names
    tables = {cell: arms.crossed(there, cell) for cell in COLUMNS}
    lines = ["", f"| arm | {' | '.join(HEADS)} |", "|---" * (len(HEADS) + 1) + "|"]
    for name in there:
        lines.append(f"| {name} | " + " | ".join(f"{table.arm(name).value:.3f}" for table in tables.values()) + " |")
    pairs = [(a, b) for a, b in contrasts]
    missing = [f"{a} - {b}" for a, b in pairs if not {a, b} <= set(there)]
    if missing:
        return "\n".join([*lines, "", "not yet tested: " + ", ".join(missing)])
    lines += ["", "| difference | tools, linear | p, corrected | | phase, linear (not tested) |"]
    lines += ["|---|---|---|---|---|"]
    scored = ScoredTask("tools, linear", tables[TOOLS], [arms.arm(name, TOOLS) for name in there], metric("tools"))
    for found in declared_contrasts([scored], pairs):
        phase = said(tables[PHASE], found.a, found.b)
        p = f"{found.p_holm:.4f}" if found.underpowered is None else "-"
        lines.append(f"| {found.a} - {found.b} | {shown(found.difference)} | {p} | {found.result} | {phase} |")
    return "\n".join(lines)


def real_table(first: Arms, folds: Sequence[Arms], cases: Sequence[Sequence[str]]) -> str:
    """Markdown: pooled over all videos and without the longest, each scored by runs that did not see it; and the
    difference to the first weights video by video.
    """
    names = [name for name in folds[0].names if all(name in fold.names for fold in folds)]
    about = first.about
    rows = {name: first.predictions(name) for name in (FIRST, RANDOM)}
    for name in names:
        parts = [fold.predictions(name) for fold in folds]
        unseen = [part[part["case"].isin(held)] for part, held in zip(parts, cases, strict=True)]
        rows[name] = pd.concat(unseen, ignore_index=True)
    videos = sorted(rows[FIRST]["case"].unique())
    longest = rows[FIRST].drop_duplicates("path")["case"].value_counts().idxmax()
    lines = ["", f"| arm | tools, linear | without {longest} | phase, linear | tools by video, to first weights |"]
    lines += ["|---|---|---|---|---|"]
    base = _by_video(arm_of(FIRST, rows[FIRST], about, TOOLS), videos)
    for name, own in rows.items():
        arm = arm_of(name, own, about, TOOLS)
        kept = np.array([video != longest for video in videos])
        cells = [_mean(arm), _mean(_cut(arm, kept)), _mean(arm_of(name, own, about, PHASE), "phase")]
        gains = ", ".join(f"{gain:+.3f}" for gain in _by_video(arm, videos) - base)
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + f" | {gains} |")
    return "\n".join([*lines, "", f"videos: {', '.join(videos)}"])


def _cut(arm: Arm[Any], kept: np.ndarray) -> Arm[Any]:
    return replace(arm, seeds=tuple((of_cases(run, kept),) for (run,) in arm.seeds))


def _mean(arm: Arm[Any], task: str = "tools") -> float:
    return float(np.mean([metric(task)(run, None) for (run,) in arm.seeds]))


def _by_video(arm: Arm[Any], videos: Sequence[str]) -> np.ndarray:
    return np.array([_mean(_cut(arm, np.arange(len(videos)) == place)) for place in range(len(videos))])


def dense_table(data: Path, first: str, arms: Mapping[str, Sequence[Path]], out: Path) -> str:
    """Markdown: mean IoU of masks by a linear probe on the map of stride 16, heads fitted to training cases and scored
    on test cases; what was counted is kept in `out`.
    """
    frames = choose_frames(LabelledFolder(data=data), "segmentation", DENSE_FRAMES, ("mask",), "dense", scored="test")
    probe = DenseProbe("dense", frames, DENSE_SIZE)
    out.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, list[str | Path]] = {FIRST: [first], **{name: list(runs) for name, runs in arms.items()}}
    found = []
    for name, runs in wanted.items():
        seeds = tuple((_dense(probe, run, out / f"{name.replace(' ', '-')}-{n}.npz"),) for n, run in enumerate(runs))
        found.append(Arm(name, seeds, fixed=name == FIRST))
    table = crossed(found, metric("segmentation"))
    scored = f"{len(frames.train)} training frames, scored on {len(frames.val)} of {frames.val_cases} test cases"
    lines = ["", scored, "", "| arm | mean IoU | to first weights, 95 % |", "|---|---|---|"]
    for name in wanted:
        gain = "-" if name == FIRST else said(table, name, FIRST)
        lines.append(f"| {name} | {table.arm(name).value:.3f} | {gain} |")
    return "\n".join(lines)


def _dense(probe: DenseProbe, backbone: str | Path, kept: Path) -> SegmentationOutcome:
    if not kept.exists():
        network = load_backbone(backbone).eval()
        with torch.inference_mode():
            found = probe.outcome(network, describe_backbone(network), Spread())
        np.savez(kept.with_suffix(".partial.npz"), confusions=found.confusions, case=found.case)
        kept.with_suffix(".partial.npz").rename(kept)
    with np.load(kept) as arrays:
        space = probe.frames.space
        return SegmentationOutcome(arrays["confusions"], arrays["case"], space.classes, background=space.background)
