"""What a study has found so far, for reports: every scored backbone with its predictions, read back from the lock.

And what of it nothing may show: of its catalog, of its labelled data, and what its stages have left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from trocar.data.catalog.catalog import Catalog
from trocar.data.remote.store import Place
from trocar.downstream.metrics.outcome import AnyMetric, AnyOutcome, of_cases
from trocar.downstream.metrics.registry import metric_named
from trocar.downstream.predictions.prediction_file import Key, Predictions
from trocar.downstream.predictions.prediction_scores import outcomes
from trocar.errors import TrocarError
from trocar.privacy.aliases import Aliases, open_book, read_book, withheld
from trocar.privacy.private_data import Private, marks_in, private_of_catalog, private_of_marks
from trocar.study.config import StudyConfig
from trocar.study.stages import RESULTS, FinishedStage, Store, check_content, read_spec
from trocar.study.study_lock import ArmRun, LockedEvaluation, StudyLock, require_lock


def private_of_study(lock: StudyLock, store: Store) -> Private:
    """Everything private that a study knows by now, nothing where it is to be shown. What was private when a stage ran
    stays so, and marks that were set since count too.

    Raises TrocarError for a damaged list of names, ConfigError for marks that cannot be understood: then nothing may be
    shown. A catalog that cannot be read is skipped.
    """
    return Private() if lock.study.privacy.share_frames else marked_in_study(lock, store)


def open_study_book(lock: StudyLock, store: Store) -> Aliases:
    """The aliases under which the stages of a study, and whoever reads them, show what is private.

    Raises as `private_of_study`.
    """
    private = private_of_study(lock, store)
    return open_book(store.root, private.names, private.hidden.cases, private.called)


def marked_in_study(lock: StudyLock, store: Store) -> Private:
    """What `private_of_study` would be if nothing were to be shown; raises the same."""
    shards = [task.shards for task in lock.study.tasks.values() if task.shards is not None]
    left = Aliases.join([withheld(store.out(stage)) for stage in lock.stages])
    stages = Private(left.cases, frozenset(left.names), left.table)
    seen = Private.join([stages, *_of_catalogs([lock.study.catalog, *shards])])
    # What a stage or a catalog withholds may be a case of the labelled data, whatever it is there.
    every = Private.join([Private(called=read_book(store.root)), seen, *_of_tasks(lock, store)])
    return replace(every.called_as(every.hidden), cases=every.cases | seen.names)


def _of_catalogs(paths: Iterable[Place]) -> Iterator[Private]:
    for path in dict.fromkeys(paths):
        try:
            yield private_of_catalog(Catalog.open(path))
        except TrocarError:
            continue  # the report says so, and shows nothing


def _of_tasks(lock: StudyLock, store: Store) -> Iterator[Private]:
    for name, task in lock.tasks.items():
        for marks in (lock.study.tasks[name].private, marks_in(Path(task.root))):
            yield private_of_marks(_cases(lock, store, name), marks)


def _cases(lock: StudyLock, store: Store, task: str) -> pd.DataFrame:
    """Columns case and video: the cases of a task, with the videos that the predictions tell."""
    locked = lock.tasks[task]
    folds = [*locked.test_cases.values(), *locked.val_cases.values()]
    folds += [fold for draws in locked.draws.values() for draw in draws for fold in draw.values()]
    known: pd.DataFrame = pd.DataFrame([(case, case) for fold in folds for case in fold], columns=["case", "video"])
    done = (e.stage for e in lock.evaluations if e.task == task and store.is_done(e.stage))
    stage = next(done, None)
    if stage is None:
        return known
    check_content(store, stage)  # what it no longer says could be shown
    tested = pq.read_table(store.out(stage) / RESULTS["evaluate"], columns=["case", "video"]).to_pandas()
    found: pd.DataFrame = pd.concat([known, tested]).drop_duplicates()
    return found


class Pretrained(ArmRun):
    """A pretraining with its run `folder`, and `done`, what done.json says: None while it has not ended."""

    folder: Path
    done: FinishedStage | None


@dataclass(frozen=True)
class Score:
    """One arm scored once: a pretraining seed (for baselines, which draw of random weights; 0 for given weights), a
    draw of the label budget and a start of the protocol.

    `kind`: pretrained, init, random or backbone. `key` finds its rows in the predictions file. `labelled`: labelled
    training cases of this draw, the mean over folds. `test_cases`: all that were predicted, `scored` those that count.
    """

    arm: str
    kind: str
    seed: int
    task: str
    protocol: str
    budget: str
    draw: int
    start: int
    labelled: float
    stage: str
    predictions: Path
    key: Key
    test_cases: tuple[str, ...]
    scored: tuple[str, ...] | None = None

    @property
    def outcome(self) -> AnyOutcome:
        """Labels, predictions and cases of the test frames that are compared; `cases` has the names of the cases."""
        outcome = _outcomes_in(self.predictions)[self.key]
        if self.scored is None:
            return outcome
        return of_cases(outcome, np.array([case in self.scored for case in self.test_cases]))

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases that `outcome.case` counts."""
        return self.test_cases if self.scored is None else tuple(c for c in self.test_cases if c in self.scored)


@dataclass(frozen=True)
class StudyResults:
    """A study with everything that is done. `lock` is study.lock, where the cases of all arms and draws are."""

    study: StudyConfig
    store: Store
    lock: StudyLock

    @classmethod
    def load(cls, study: StudyConfig, store: Store) -> StudyResults:
        """Raises ConfigError for a study that was never planned."""
        return cls(study, store, require_lock(store, study.name))

    @cached_property
    def arms(self) -> dict[str, str]:
        """Arms and baselines that are in the study -> their kind, in order."""
        return {e.arm: e.kind for e in self.lock.evaluations}

    @property
    def init_of(self) -> dict[str, str]:
        """Arm -> the baseline that it began from."""
        return self.lock.init_of

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """The pairs that are to be tested."""
        return list(self.lock.contrasts)

    @property
    def left_out(self) -> dict[str, str]:
        """Cells of the design that are not in the study -> why."""
        return {**self.study.unavailable, **self.lock.left_out}

    @cached_property
    def pretrained(self) -> list[Pretrained]:
        """All pretrainings, whether they have ended or not."""
        return [
            Pretrained(**dict(run), folder=self.store.out(run.stage), done=self.store.done(run.stage))
            for run in self.lock.runs
        ]

    @cached_property
    def scores(self) -> list[Score]:
        """Everything that has been scored. Raises TrocarError for predictions that are not those the stage wrote."""
        done = {stage: self.store.is_done(stage) for stage in self.lock.stages}
        for stage in dict.fromkeys(e.stage for e in self.lock.evaluations if done[e.stage]):
            check_content(self.store, stage)
        return [score for e in self.lock.evaluations if done[e.stage] for score in self._scores(e)]

    @cached_property
    def missing(self) -> list[str]:
        """Stages that have not ended, the report aside."""
        return [n for n, stage in self.lock.stages.items() if stage.kind != "report" and not self.store.is_done(n)]

    def metric(self, task: str) -> str:
        """The metric that a task is compared by."""
        return self.lock.tasks[task].metric

    def about(self, score: Score) -> dict[str, Any]:
        """The row of results.json that the score is in: what was chosen, labelled cases, the leak verdict if any."""
        path = self.store.out(score.stage) / "results.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
            # One for each of the tasks that were learned together.
            return dict(next(row for row in rows if row["task"] == score.key.task))
        except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
            folder = self.store.folder(score.stage)
            raise TrocarError(f"{path} is damaged ({error}); delete {folder} and run the study again") from None

    def verdict(self, score: Score) -> str:
        """The leak verdict of the backbone on the test cases; `unknown` where none was reached."""
        return str((self.about(score).get("leak") or {}).get("verdict", "unknown"))

    def table(self) -> pd.DataFrame:
        """One row per score with the task's metric."""
        rows = [
            {
                "arm": score.arm,
                "kind": score.kind,
                "seed": score.seed,
                "task": score.task,
                "protocol": score.protocol,
                "budget": score.budget,
                "labelled_cases": score.labelled,
                "draw": score.draw,
                "start": score.start,
                "metric": self.metric(score.task),
                "value": self.value(score),
                "leak": self.verdict(score),
                "stage": score.stage,
            }
            for score in self.scores
        ]
        table: pd.DataFrame = pd.DataFrame(rows)
        return table

    def measure(self, task: str) -> AnyMetric:
        """The metric of a task as a function of an outcome and weights of its cases."""
        return metric_named(self.lock.tasks[task].task, self.metric(task))

    def value(self, score: Score) -> float:
        """The task's metric of one score, NaN where the metric means nothing for its labels."""
        return float(self.measure(score.task)(score.outcome, None))

    def _scores(self, e: LockedEvaluation) -> Iterator[Score]:
        spec = read_spec(self.store.folder(e.stage))
        predictions = self.store.out(e.stage) / RESULTS["evaluate"]
        task = self.lock.tasks[e.task]
        draws = task.draws[e.budget]
        label = spec.parent_backbone or str(spec.config["backbone"][0]).partition("=")[0]
        for member in range(e.members):
            for draw in range(e.draws):
                for start in range(e.starts):
                    yield Score(
                        arm=e.arm,
                        kind=e.kind,
                        seed=member if e.seed is None else e.seed,
                        task=e.task,
                        protocol=e.protocol,
                        budget=e.budget,
                        draw=draw,
                        start=start,
                        labelled=sum(map(len, draws[draw].values())) / len(draws[draw]),
                        stage=e.stage,
                        predictions=predictions,
                        key=Key(task.task, label, e.protocol, member, draw, start),
                        test_cases=task.tested,
                        scored=task.scored,
                    )


# A study's scores are asked for file by file, and one file may have gigabytes of scores.
@lru_cache(maxsize=1)
def _outcomes_in(path: Path) -> dict[Key, AnyOutcome]:
    return outcomes(Predictions.read(path))
