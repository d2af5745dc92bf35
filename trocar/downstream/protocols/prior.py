"""The answer without looking: how frequent each class is in the training frames."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats
from trocar.downstream.protocols.base import Prediction, TrainingSet, one_hot
from trocar.downstream.tasks.base import Task


def prior(task: Task, train: TrainingSet, test: Floats) -> Prediction:
    """The training prevalence of every class as the score of every test frame: the majority class for one
    label a frame.
    """
    prevalence = one_hot(train.targets, train.classes).mean(0)
    return Prediction(np.tile(prevalence, (len(test), 1)))
