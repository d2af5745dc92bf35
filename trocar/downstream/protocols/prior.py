"""The answer without looking: how frequent each class is in the training frames."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trocar.downstream.protocols.base import Prediction, Problem, Protocol, one_hot


class Prior(Protocol):
    """The training prevalence of every class as the score of every test frame: the majority class for one label a
    frame.
    """

    name: Literal["prior"] = "prior"

    def predict(self, problem: Problem) -> Prediction:
        """One score per class, the same for all test frames."""
        prevalence = one_hot(problem.targets[problem.train], len(problem.space.classes)).mean(0)
        return Prediction(np.tile(prevalence, (len(problem.test), 1)))
