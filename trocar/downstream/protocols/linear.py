"""Linear probe: logistic regression on standardised frozen features, regularisation chosen inside the
training cases.
"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import GroupKFold

from trocar.downstream.metrics.outcome import Floats, Outcome
from trocar.downstream.protocols.base import Prediction, TrainingSet, decide, one_hot, standardise
from trocar.downstream.protocols.logistic import fit_path
from trocar.downstream.tasks.base import Task

# From strong to weak: each fit starts from the one before, and ties go to the stronger.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
VALIDATION_FOLDS = 3
VALIDATION_TOLERANCE = 1e-4  # a ranking of strengths needs less than the final fit
PATIENCE = 2
FALLBACK = 0.1  # for a single training case: there is nothing to validate on


def linear(task: Task, train: TrainingSet, test: Floats) -> Prediction:
    """Softmax regression for one label a frame, one logistic regression per class for several; L2 penalty.

    The strength is the one of `STRENGTHS` with the best headline of the task on held-out training cases (3
    grouped folds; the walk from strong to weak ends after two strengths without a gain), then the model is
    fitted on all training frames. See `logistic.fit_path` for the objective.
    """
    validation = _validate(task, train)
    best = int(np.nanargmax(validation)) if validation else STRENGTHS.index(FALLBACK)
    features, queries = standardise(train.features, test)
    *_, model = fit_path(features, one_hot(train.targets, train.classes), task.kind, STRENGTHS[: best + 1])
    detail = {"strength": STRENGTHS[best], "converged": model.converged, "validation": validation}
    return Prediction(model.probabilities(queries), detail)


def _validate(task: Task, train: TrainingSet) -> list[float]:
    """Headline on held-out training cases, strength by strength; empty with fewer than two cases."""
    names, case = np.unique(train.case, return_inverse=True)
    if len(names) < 2:
        return []
    folds = list(GroupKFold(min(VALIDATION_FOLDS, len(names))).split(train.features, groups=case))
    standard = [standardise(train.features[fit], train.features[held]) for fit, held in folds]
    paths = [
        fit_path(features, one_hot(train.targets[fit], train.classes), task.kind, STRENGTHS, VALIDATION_TOLERANCE)
        for (fit, _), (features, _) in zip(folds, standard, strict=True)
    ]
    headlines: list[float] = []
    for models in zip(*paths, strict=True):
        scores = np.zeros((len(train.features), train.classes))
        for model, (_, held), (_, queries) in zip(models, folds, standard, strict=True):
            scores[held] = model.probabilities(queries)
        outcome = Outcome(train.targets, decide(task.kind, scores), scores, case.astype(np.int64))
        headlines.append(task.score(outcome))
        if len(headlines) - 1 - int(np.argmax(headlines)) >= PATIENCE:
            break
    return headlines
