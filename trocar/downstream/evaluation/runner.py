"""One arm through one bench: every member, draw of labels and random start, fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from trocar.downstream.evaluation.contenders import Contender, Replicate, label_on
from trocar.downstream.evaluation.evaluate_config import Computing, EvaluateConfig
from trocar.downstream.evaluation.experiment import Experiment, drawn
from trocar.downstream.evaluation.mask_runs import (
    Shelf,
    draw_masks,
    file_stem,
    images_with_class,
    make_mask_row,
    mask_table,
    run_masks,
)
from trocar.downstream.evaluation.result_cache import Finished
from trocar.downstream.evaluation.results import ResultRow
from trocar.downstream.evaluation.rows import ContenderRun, make_row, prediction_table
from trocar.downstream.features.baselines import BASELINES
from trocar.downstream.features.feature_cache import Encoder, Features
from trocar.downstream.features.frame_cache import FrameCache
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import Prediction, Protocol
from trocar.downstream.protocols.segmentation import MaskProtocol
from trocar.downstream.splits.budgets import most_draws
from trocar.downstream.splits.folds import Fold
from trocar.downstream.tasks.segmentation import SegmentationTask
from trocar.errors import TrocarError
from trocar.privacy.private_data import Private

# Below this many feature values BLAS threads wait for each other longer than they compute, above all on a busy machine.
SMALL = 20_000_000
FIGURES = "figures"


@dataclass
class ScoredContender:
    """Rows of the comparison, the predictions behind them, class counts that only scoring tells, and what draws the
    pictures of masks.
    """

    rows: list[ResultRow] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    overlays: list[Callable[[], list[Path]]] = field(default_factory=list)

    def __iadd__(self, other: ScoredContender) -> ScoredContender:
        self.rows += other.rows
        self.tables += other.tables
        self.counts |= other.counts
        self.overlays += other.overlays
        return self


def make_encoder(
    arm: Contender, member: Replicate, frames: FrameCache, config: EvaluateConfig, computing: Computing
) -> Encoder:
    """What a protocol may ask of one member of an arm."""
    plain = _nothing if arm.kind == "majority" else BASELINES.get(member.name)
    without = plain if member.model is None else None
    return Encoder(
        frames,
        member.size,
        member.model,
        without,
        config.batch,
        computing.device,
        member.name,
        computing.precision,
        config.workers,
    )


def score(
    arm: Contender,
    bench: Experiment,
    protocol: Protocol,
    encoders: dict[str, Encoder],
    config: EvaluateConfig,
    private: Private,
    finished: Finished,
) -> ScoredContender:
    """All runs of an arm on a bench with one protocol, but for what is `finished`; pictures show no `private` case."""
    if isinstance(protocol, MaskProtocol):
        return _score_masks(arm, bench, protocol, encoders, config, private, finished)
    runs = [
        _run(index, member, bench, folds, protocol, encoder, finished)
        for index, member, encoder, folds in _runs(bench, protocol, encoders, config)
    ]
    label = label_on(bench, protocol)
    rows = [make_row(arm, bench, task, label, runs, config.bootstrap) for task in bench.tasks]
    tables = [prediction_table(arm, bench, task, label, run) for task in bench.tasks for run in runs]
    return ScoredContender(rows, tables)


def _score_masks(
    arm: Contender,
    bench: Experiment,
    protocol: MaskProtocol,
    encoders: dict[str, Encoder],
    config: EvaluateConfig,
    private: Private,
    finished: Finished,
) -> ScoredContender:
    (task,) = bench.tasks
    assert isinstance(task, SegmentationTask)
    runs = []
    for index, member, encoder, folds in _runs(bench, protocol, encoders, config):
        problems = (bench.problem(fold, encoder, index.start) for fold in folds)
        runs.append(run_masks(index, member, arm.label, bench, folds, protocol, problems, Shelf(config.out), finished))
    row = make_mask_row(arm, bench, task, protocol.label, runs, config.bootstrap)
    tables = [mask_table(arm, bench, protocol.label, run) for run in runs]
    overlays: list[Callable[[], list[Path]]] = []
    if config.out is not None and config.figures and arm.kind != "majority":
        name = f"segmentation-{file_stem(private.hidden.text(arm.label), protocol.label)}-overlays.png"
        path = config.out / FIGURES / name
        overlays = [partial(draw_masks, bench, runs[0], config.out, path, private.cases)]
    return ScoredContender([row], tables, {task.name: images_with_class(bench, runs[0])}, overlays)


def _runs(
    bench: Experiment, protocol: Protocol, encoders: dict[str, Encoder], config: EvaluateConfig
) -> Iterator[tuple[RunIndex, str, Encoder, list[Fold]]]:
    """(which, its name, encoder, folds): every replicate with every draw of the budget and every random start."""
    draws = most_draws(bench.data, config.budget, config.draws)
    repeats = config.repeats if protocol.random_start else 1
    for replicate, (name, encoder) in enumerate(encoders.items()):
        for draw in range(draws):
            folds = drawn(bench, config, draw)
            for start in range(repeats):
                words = [name] + [f"draw {draw}"] * (draws > 1) + [f"start {start}"] * (repeats > 1)
                yield RunIndex(replicate, draw, start), ", ".join(words), encoder, folds


def _run(
    index: RunIndex,
    member: str,
    bench: Experiment,
    folds: list[Fold],
    protocol: Protocol,
    encoder: Encoder,
    finished: Finished,
) -> ContenderRun:
    small = protocol.trains_network or encoder.features.size < SMALL
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        found: list[Prediction] = [
            finished.predict(protocol, bench.problem(fold, encoder, index.start)) for fold in folds
        ]
    for prediction in found:
        _require_finite_scores(prediction, f"{member}, {protocol.label}")
    lead = bench.tasks[0].name
    scores = {lead: np.concatenate([p.scores for p in found])}
    for task in bench.tasks[1:]:
        scores[task.name] = np.concatenate([p.others[task.name] for p in found])
    return ContenderRun(index, member, scores, [dict(p.detail) for p in found], folds)


def _require_finite_scores(prediction: Prediction, whose: str) -> None:
    """Raises TrocarError for NaN among the scores: labels decided from them would be those of the first class."""
    for scores in (prediction.scores, *prediction.others.values()):
        wrong = int(np.count_nonzero(~np.isfinite(scores).all(1)))
        if wrong:
            raise TrocarError(
                f"{whose}: the scores of {wrong} of {len(scores)} test frames are NaN or infinite; a training that "
                "diverged needs a smaller lr"
            )


def _nothing(frames: FrameCache) -> Features:
    return np.zeros((len(frames.data), 1), dtype=np.float32)
