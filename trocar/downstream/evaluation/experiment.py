"""One task, or several learned together, on one data set: folds, labels, and the problem each fold is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trocar.downstream.features.feature_cache import Encoder
from trocar.downstream.folds import ALL_LABELS, AUTO, Budget, Fold, make_folds, most_draws, restrict
from trocar.downstream.labels import Kind, LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import Goal, Problem, Targets
from trocar.downstream.tasks import TOGETHER, get_task
from trocar.downstream.tasks.base import Task
from trocar.errors import ConfigError


@dataclass(frozen=True)
class Experiment:
    """`tasks` are learned together, the first leads; `folds` are over the rows that carry a label of any of them.
    `case` [N] numbers the operation of every row of the table, `time_s` [N] are seconds since it began: recorders split
    an operation into files, and the gap between two of them isn't known and counts as one label period.
    """

    tasks: tuple[Task, ...]
    data: LabelledFrames
    scheme: str
    folds: list[Fold]
    case: Ints
    time_s: Floats
    fps: float
    budget: Budget = ALL_LABELS

    @property
    def name(self) -> str:
        """As it was asked for."""
        return TOGETHER.join(task.name for task in self.tasks)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of the tasks' labels."""
        return tuple(self.space(task).kind for task in self.tasks)

    @property
    def rows(self) -> Ints:
        """Row numbers of all test frames, each once, in fold order."""
        return np.concatenate([fold.test for fold in self.folds])

    def space(self, task: Task) -> LabelSpace:
        """How a task is labelled here."""
        return self.data.space(task.name)

    def labelled(self, task: Task) -> np.ndarray:
        """Which of `rows` carry the task's labels, bool [m]: all of them unless tasks are learned together."""
        return self.space(task).known(self.data.frames)[self.rows]

    @property
    def draws(self) -> int:
        """How many different draws of the budget there are."""
        return most_draws(self.data, self.budget.wanted, self.budget.draws)

    def drawn(self, draw: int) -> list[Fold]:
        """The folds with the labelled cases of one draw. Raises ConfigError for a budget that cannot be."""
        space = self.space(self.tasks[0])
        return [restrict(self.data, space, fold, self.budget.wanted, draw) for fold in self.folds]

    def problem(self, fold: Fold, encoder: Encoder, seed: int) -> Problem:
        """The fold as a protocol sees it: with the labels of its training and validation cases and no others."""
        labelled = np.concatenate([fold.train, fold.val])
        goals = tuple(Goal(task, self.space(task), self._targets(task, labelled)) for task in self.tasks)
        val = fold.val if len(fold.val) else None
        return Problem(goals, encoder, fold.train, val, fold.test, self.case, self.time_s, seed)

    def _targets(self, task: Task, shown: Ints) -> Targets:
        """The task's labels of all rows, hidden but for those `shown`."""
        values = task.targets(self.data).astype(np.float64)
        targets = np.full_like(values, -1)
        targets[shown] = values[shown]
        return targets if self.space(task).soft else targets.astype(np.int64)


def make_experiment(
    names: str,
    data: LabelledFrames,
    folds: str | int = AUTO,
    val: str = AUTO,
    fps: float = 1.0,
    budget: Budget = ALL_LABELS,
) -> Experiment:
    """The experiment of a task's name, or of several joined by `+`, on `data` read at `fps`; `folds` and `val` as
    `make_folds`. Raises ConfigError for what does not exist.
    """
    tasks = tuple(get_task(name) for name in names.split(TOGETHER))
    if len({task.name for task in tasks}) < len(tasks):
        raise ConfigError(f"task {names!r} names a task twice")
    known = np.any([data.space(task.name).known(data.frames) for task in tasks], axis=0)
    rows = np.flatnonzero(known).astype(np.int64)
    scheme, divided = make_folds(data, str(folds), rows, val)
    case = np.unique(data.frames["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    return Experiment(tasks, data, scheme, divided, case, seconds_in_operation(data, 1 / fps), fps, budget)


def seconds_in_operation(data: LabelledFrames, gap: float) -> Floats:
    """Seconds since the operation began of every row, [N]: the files of one operation are joined in the order of their
    names, `gap` seconds apart.
    """
    frames = data.frames
    last = frames.groupby(["case", "video"], sort=True)["time_s"].max() + gap
    before = last.groupby(level="case").cumsum() - last
    keys = pd.MultiIndex.from_frame(frames[["case", "video"]])
    found: Floats = frames["time_s"].to_numpy(np.float64) + before.reindex(keys).to_numpy(np.float64)
    return found
