"""Linear probe: logistic regression on standardised frozen features, its regularisation chosen on validation cases."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field
from sklearn.model_selection import GroupKFold

from trocar.downstream.protocols.base import (
    Labelled,
    Prediction,
    Problem,
    Protocol,
    headline,
    join,
    one_hot,
    standardise,
    take,
)
from trocar.downstream.protocols.logistic import fit_path

VALIDATION_FOLDS = 3
VALIDATION_TOLERANCE = 1e-4  # a ranking of strengths needs less than the final fit
PATIENCE = 2
FALLBACK = 0.1  # for a single training case: there is nothing to validate on


class Linear(Protocol):
    """Softmax regression for one label a frame, one logistic regression per class for several; L2 penalty.

    The strength is the one of `strengths` (from strong to weak; ties go to the stronger) with the best headline of the
    task on the validation cases, or on held-out training cases where there are none (3 grouped folds, then one fit on
    all training frames). The walk ends after two strengths without a gain. The fit is the optimum, so that there is no
    learning rate to search. See `logistic.fit_path` for the objective.
    """

    name: Literal["linear"] = "linear"
    strengths: tuple[float, ...] = Field(default=(10.0, 1.0, 0.1, 0.01, 0.001, 0.0001), min_length=1)

    def predict(self, problem: Problem) -> Prediction:
        """Choose the strength, fit, and give probabilities."""
        validation = self._validate(problem)
        fallback = int(np.argmin(np.abs(np.log(np.array(self.strengths) / FALLBACK))))
        best = int(np.nanargmax(validation)) if validation else fallback
        train, test = problem.features(problem.train), problem.features(problem.test)
        features, queries = standardise(train, test)
        targets = one_hot(problem.train.targets, len(problem.space.classes))
        *_, model = fit_path(features, targets, problem.space.kind, self.strengths[: best + 1])
        detail = {"strength": self.strengths[best], "converged": model.converged, "validation": validation}
        return Prediction(model.probabilities(queries), detail)

    def _validate(self, problem: Problem) -> list[float]:
        """Headline on held-out cases, strength by strength; empty where nothing can be held out."""
        rounds = _rounds(problem)
        if not rounds:
            return []
        kind, classes = problem.space.kind, len(problem.space.classes)
        standard = [standardise(problem.features(fit), problem.features(held)) for fit, held in rounds]
        paths = [
            fit_path(features, one_hot(fit.targets, classes), kind, self.strengths, VALIDATION_TOLERANCE)
            for (fit, _), (features, _) in zip(rounds, standard, strict=True)
        ]
        headlines: list[float] = []
        for models in zip(*paths, strict=True):
            scores = [model.probabilities(queries) for model, (_, queries) in zip(models, standard, strict=True)]
            headlines.append(headline(problem, join([held for _, held in rounds]), np.concatenate(scores)))
            if len(headlines) - 1 - int(np.argmax(headlines)) >= PATIENCE:
                break
        return headlines if not np.isnan(headlines).all() else []


def _rounds(problem: Problem) -> list[tuple[Labelled, Labelled]]:
    """(fit on, hold out): the validation cases, or grouped folds of the training cases."""
    if problem.val is not None:
        return [(problem.train, problem.val)]
    train = problem.train
    cases = len(np.unique(train.case))
    if cases < 2:
        return []
    folds = GroupKFold(min(VALIDATION_FOLDS, cases)).split(train.rows, groups=train.case)
    return [(take(train, fit), take(train, held)) for fit, held in folds]
