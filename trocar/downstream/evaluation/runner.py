"""One arm through one bench: every member, draw of labels and random start, fold by fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from trocar.downstream.evaluation.contenders import BASELINES, Contender, Replicate, label_on
from trocar.downstream.evaluation.evaluate_config import Computing
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.evaluation.result_cache import Finished
from trocar.downstream.evaluation.results import RowOrigin
from trocar.downstream.evaluation.run_files import (
    ContenderRun,
    MaskWriter,
    details,
    draw_masks,
    file_stem,
    frame_payload,
    prediction_table,
    run_masks,
    solve_masks,
)
from trocar.downstream.features.feature_cache import Encoder, Features
from trocar.downstream.features.frame_cache import FrameCache
from trocar.downstream.folds import Fold
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols.base import Prediction, Problem, Protocol
from trocar.downstream.protocols.segmentation import MaskProtocol
from trocar.errors import TrocarError
from trocar.privacy.private_data import Private

# Below this many feature values BLAS threads wait for each other longer than they compute, above all on a busy machine.
SMALL = 20_000_000
FIGURES = "figures"


@dataclass
class PredictedContender:
    """What the rows of the comparison say besides numbers, the predictions that these follow from, and what draws the
    pictures of masks.
    """

    rows: list[RowOrigin] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)
    overlays: list[Callable[[], list[Path]]] = field(default_factory=list)

    def __iadd__(self, other: PredictedContender) -> PredictedContender:
        self.rows += other.rows
        self.tables += other.tables
        self.overlays += other.overlays
        return self


def encoders_of(arm: Contender, frames: FrameCache, computing: Computing) -> dict[str, Encoder]:
    """Of the members of an arm, by name."""
    return {member.name: make_encoder(arm, member, frames, computing) for member in arm.members}


def make_encoder(arm: Contender, member: Replicate, frames: FrameCache, computing: Computing) -> Encoder:
    """What a protocol may ask of one member of an arm."""
    without = None
    if member.model is None:
        without = _nothing if arm.kind == "majority" else BASELINES.get(member.name)
    return Encoder(
        frames,
        member.size,
        member.model,
        without,
        computing.batch,
        computing.device,
        member.name,
        computing.precision,
        computing.workers,
    )


@dataclass(frozen=True)
class Runner:
    """What all arms go through alike: `repeats` random starts of a protocol that has one; masks are kept below `out`
    (None: nowhere), with pictures if there are to be `figures`, which show no `private` case; what is `finished` is not
    done again.
    """

    repeats: int
    out: Path | None
    figures: bool
    private: Private
    finished: Finished

    def predict(
        self, arm: Contender, bench: Experiment, protocol: Protocol, encoders: Mapping[str, Encoder]
    ) -> PredictedContender:
        """All runs of an arm on a bench with one protocol; `encoders` are those of its members, by name."""
        runs = [
            self._run(arm, bench, protocol, index, name, encoder, folds)
            for index, name, encoder, folds in self._runs(bench, protocol, encoders)
        ]
        label = label_on(bench, protocol)
        members, indices = [run.member for run in runs], [run.index for run in runs]
        detail = [details(bench, run.detail, run.folds) for run in runs]
        rows = [RowOrigin(task.name, label, arm.label, arm.kind, members, indices, detail) for task in bench.tasks]
        tables = [prediction_table(arm, bench, task, label, run) for task in bench.tasks for run in runs]
        overlays: list[Callable[[], list[Path]]] = []
        if isinstance(protocol, MaskProtocol) and self.out is not None and self.figures and arm.kind != "majority":
            name = f"{bench.name}-{file_stem(self.private.hidden.text(arm.label), label)}-overlays.png"
            overlays = [partial(draw_masks, bench, runs[0], self.out, self.out / FIGURES / name, self.private.cases)]
        return PredictedContender(rows, tables, overlays)

    def _runs(
        self, bench: Experiment, protocol: Protocol, encoders: Mapping[str, Encoder]
    ) -> Iterator[tuple[RunIndex, str, Encoder, list[Fold]]]:
        """(which, its name, encoder, folds): every replicate with every draw of the budget and every random start."""
        repeats = self.repeats if protocol.random_start else 1
        for replicate, (name, encoder) in enumerate(encoders.items()):
            for draw in range(bench.draws):
                folds = bench.drawn(draw)
                for start in range(repeats):
                    words = [name] + [f"draw {draw}"] * (bench.draws > 1) + [f"start {start}"] * (repeats > 1)
                    yield RunIndex(replicate, draw, start), ", ".join(words), encoder, folds

    def solve(
        self,
        arm: Contender,
        bench: Experiment,
        protocol: Protocol,
        encoders: Mapping[str, Encoder],
        is_mine: Callable[[RunIndex, int], bool],
        check: Callable[[], None],
    ) -> None:
        """Have those problems solved that `is_mine` says of a run and the number of a fold, for `predict` to find.
        `check` is called before each, and may end it.
        """

        def checked(numbers: Iterable[int]) -> Iterator[int]:
            for number in numbers:
                check()
                yield number

        for index, name, encoder, folds in self._runs(bench, protocol, encoders):
            mine = [number for number in range(len(folds)) if is_mine(index, number)]
            if not mine:
                continue
            problems = self._problems(arm, bench, index, name, encoder, folds, checked(mine))
            if isinstance(protocol, MaskProtocol):
                solve_masks(name, arm.label, protocol, problems, MaskWriter(self.out), self.finished)
            else:
                _solve_frames(protocol, encoder, problems, self.finished)

    def _run(
        self,
        arm: Contender,
        bench: Experiment,
        protocol: Protocol,
        index: RunIndex,
        name: str,
        encoder: Encoder,
        folds: list[Fold],
    ) -> ContenderRun:
        problems = self._problems(arm, bench, index, name, encoder, folds, range(len(folds)))
        if isinstance(protocol, MaskProtocol):
            writer = MaskWriter(self.out)
            return run_masks(index, name, arm.label, bench, folds, protocol, problems, writer, self.finished)
        return _run_frames(index, name, bench, folds, protocol, encoder, problems, self.finished)

    def _problems(
        self,
        arm: Contender,
        bench: Experiment,
        index: RunIndex,
        name: str,
        encoder: Encoder,
        folds: list[Fold],
        numbers: Iterable[int],
    ) -> Iterator[Problem]:
        """Of the folds with these numbers, counted from 0."""
        words = [bench.name, arm.label, *name.split(", ")]  # a name of several words begins with that of the arm
        said = self.private.hidden.text(", ".join(dict.fromkeys(words)))
        for number in numbers:
            problem = bench.problem(folds[number], encoder, index.start)
            yield replace(problem, title=f"{said}, fold {number + 1} of {len(folds)}")


def _run_frames(
    index: RunIndex,
    member: str,
    bench: Experiment,
    folds: list[Fold],
    protocol: Protocol,
    encoder: Encoder,
    problems: Iterator[Problem],
    finished: Finished,
) -> ContenderRun:
    found = _solve_frames(protocol, encoder, problems, finished)
    for prediction in found:
        _require_finite_scores(prediction, f"{member}, {protocol.label}")
    lead, *others = bench.tasks
    scores = {lead.name: np.concatenate([p.scores for p in found])}
    scores |= {task.name: np.concatenate([p.others[task.name] for p in found]) for task in others}
    payloads = {task.name: frame_payload(bench, task, scores[task.name]) for task in bench.tasks}
    return ContenderRun(index, member, payloads, [dict(p.detail) for p in found], folds)


def _solve_frames(
    protocol: Protocol, encoder: Encoder, problems: Iterator[Problem], finished: Finished
) -> list[Prediction]:
    small = protocol.trains_network or encoder.features.size < SMALL
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        return [finished.predict(protocol, problem) for problem in problems]


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
