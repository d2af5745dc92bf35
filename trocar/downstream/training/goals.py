"""What a network is taught: the leading task of a problem and its partners, alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trocar.downstream.labels import LabelSpace
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.protocols.base import Problem, Targets
from trocar.downstream.tasks.base import Task


@dataclass(frozen=True)
class Goal:
    """`targets` of every row of the table, -1 where unlabelled or hidden: int64 [N], or [N, K] of 0..1."""

    task: Task
    space: LabelSpace
    targets: Targets

    def known(self, rows: Ints) -> Ints:
        """Those of `rows` that are labelled."""
        labelled = self.targets[rows] >= 0
        return rows[labelled if labelled.ndim == 1 else labelled.all(1)]


def goals_of(problem: Problem, *, rounded: bool) -> tuple[Goal, ...]:
    """The leading task first. `rounded` makes 0 and 1 of the mean of several annotators, as the scoring does."""
    shape = (len(problem.case), *problem.train.targets.shape[1:])
    targets = np.full(shape, -1, dtype=problem.train.targets.dtype)
    for part in (problem.train, problem.val):
        if part is not None:
            targets[part.rows] = part.targets
    found = [Goal(problem.task, problem.space, targets)]
    found += [Goal(partner.task, partner.space, partner.targets) for partner in problem.partners]
    return tuple(Goal(g.task, g.space, g.targets.round()) if rounded and g.space.soft else g for g in found)
