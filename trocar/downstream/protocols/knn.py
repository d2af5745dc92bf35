"""k nearest neighbours by cosine similarity with a temperature-weighted vote, as in DINO."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Floats
from trocar.downstream.protocols.base import PROTOCOLS, Prediction, Problem, Protocol, one_hot, standardise

CHUNK = 1024


@PROTOCOLS.register
class KNN(Protocol):
    """score_c = sum over the k nearest training frames i of class c of exp(cos_i / T), divided by the sum
    over all k.

    k = 20 and T = 0.07 (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    arXiv:2104.14294). With one label a frame k is at most the mean number of training frames of a class, so
    that small sets do not let the largest class outvote the others. Features are standardised per dimension
    over the training frames first, for every arm alike: without it a dimension of large mean, common in
    random networks and pixels, makes all cosines equal. There is nothing to choose: validation cases are not used.
    """

    name: Literal["knn"] = "knn"
    neighbours: int = Field(default=20, ge=1, description="k, the nearest training frames that vote")
    temperature: float = Field(default=0.07, gt=0, description="T of the votes exp(cos / T)")

    def predict(self, problem: Problem) -> Prediction:
        """Votes of the nearest training frames."""
        train, test = problem.features(problem.train), problem.features(problem.test)
        reference, queries = (_unit(x) for x in standardise(train, test))
        votes = one_hot(problem.targets[problem.train], len(problem.space.classes))
        k = _at_most(self.neighbours, problem.space.kind, votes)
        starts = range(0, len(queries), CHUNK)
        scores = [_vote(queries[i : i + CHUNK], reference, votes, k, self.temperature) for i in starts]
        return Prediction(np.concatenate(scores), {"k": k})


def _at_most(neighbours: int, kind: Kind, votes: Floats) -> int:
    share = len(votes) // int((votes.sum(0) > 0).sum()) if kind == "multiclass" else len(votes)
    return max(1, min(neighbours, share))


def _vote(queries: Floats, reference: Floats, votes: Floats, k: int, temperature: float) -> Floats:
    similarity = queries @ reference.T
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / temperature)
    total: Floats = np.einsum("qk,qkc->qc", weight, votes[nearest]) / weight.sum(1, keepdims=True)
    return total


def _unit(x: Floats) -> Floats:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Floats = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
    return unit
