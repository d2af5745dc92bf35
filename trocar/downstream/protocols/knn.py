"""k nearest neighbours by cosine similarity with a temperature-weighted vote, as in DINO."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats
from trocar.downstream.protocols.base import Prediction, TrainingSet, one_hot, standardise
from trocar.downstream.tasks.base import Task

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 1024


def knn(task: Task, train: TrainingSet, test: Floats) -> Prediction:
    """score_c = sum over the k nearest training frames i of class c of exp(cos_i / T), divided by the sum
    over all k.

    k = 20 and T = 0.07 (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    arXiv:2104.14294). With one label a frame k is at most the mean number of training frames of a class, so
    that small sets do not let the largest class outvote the others. Features are standardised per dimension
    over the training frames first, for every arm alike: without it a dimension of large mean, common in
    random networks and pixels, makes all cosines equal.
    """
    reference, queries = (_unit(x) for x in standardise(train.features, test))
    votes = one_hot(train.targets, train.classes)
    k = _neighbours(task, votes)
    scores = [_vote(queries[i : i + CHUNK], reference, votes, k) for i in range(0, len(queries), CHUNK)]
    return Prediction(np.concatenate(scores), {"k": k})


def _neighbours(task: Task, votes: Floats) -> int:
    share = len(votes) // int((votes.sum(0) > 0).sum()) if task.kind == "multiclass" else len(votes)
    return max(1, min(NEIGHBOURS, share))


def _vote(queries: Floats, reference: Floats, votes: Floats, k: int) -> Floats:
    similarity = queries @ reference.T
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / TEMPERATURE)
    total: Floats = np.einsum("qk,qkc->qc", weight, votes[nearest]) / weight.sum(1, keepdims=True)
    return total


def _unit(x: Floats) -> Floats:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return unit
