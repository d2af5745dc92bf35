"""Protocols that only read frozen features: class prevalence, k nearest neighbours, logistic regression.

The prevalence of classes is the answer without looking. The neighbours vote by cosine similarity, weighted with a
temperature, as in DINO.

Linear probe: logistic regression on standardised frozen features, its regularisation chosen on validation cases.

L2-regularised logistic regression, softmax or one-vs-rest, over a path of regularisation strengths.

The problem is solved in the eigenbasis of the training features, where a diagonal bound on the Hessian (Boehning,
1992) is a good preconditioner: L-BFGS then needs tens of steps where it needs hundreds on raw correlated features.
The optimum is the same, because neither the loss nor the L2 penalty changes under a rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.model_selection import GroupKFold

from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import (
    PROTOCOLS,
    Prediction,
    Problem,
    Protocol,
    best_of,
    headline,
    one_hot,
    standardise,
)


class Prior(Protocol):
    """The training prevalence of every class as the score of every test frame: the majority class for one label a
    frame.
    """

    name: Literal["prior"] = "prior"

    def predict(self, problem: Problem) -> Prediction:
        """One score per class, the same for all test frames."""
        prevalence = one_hot(problem.targets[problem.train], len(problem.space.classes)).mean(0)
        return Prediction(np.tile(prevalence, (len(problem.test), 1)))


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
        train, test = standardise(problem.features(problem.train), problem.features(problem.test))
        votes = one_hot(problem.targets[problem.train], len(problem.space.classes))
        k = _at_most(self.neighbours, problem.space.kind, votes)
        return Prediction(self.votes(train, votes, test, k), {"k": k})

    def answer(self, train: Floats, labels: Floats, queries: Floats, kind: Kind) -> Floats:
        """Scores [m, K] of standardised features [m, D], by those [n, D] of frames with labels [n, K] of 0 and 1."""
        return self.votes(train, labels, queries, _at_most(self.neighbours, kind, labels))

    def votes(self, train: Floats, labels: Floats, queries: Floats, k: int) -> Floats:
        """The same by so many neighbours."""
        reference, asking = _unit(train), _unit(queries)
        starts = range(0, len(asking), CHUNK)
        scores = [_vote(asking[i : i + CHUNK], reference, labels, k, self.temperature) for i in starts]
        return np.concatenate(scores)


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


TOLERANCE = 1e-5
MAX_STEPS = 500


@dataclass(frozen=True)
class Logistic:
    """A fitted model: `weight` [D, K] and `bias` [K]."""

    kind: Kind
    weight: Floats
    bias: Floats
    converged: bool

    def probabilities(self, x: Floats) -> Floats:
        """[m, D] -> [m, K]: softmax, or one sigmoid per class."""
        logits = x @ self.weight + self.bias
        result: Floats = np.exp(log_softmax(logits, axis=1)) if self.kind == "multiclass" else expit(logits)
        return result


def fit_path(
    x: Floats, onehot: Floats, kind: Kind, strengths: Sequence[float], tolerance: float = TOLERANCE
) -> Iterator[Logistic]:
    """Minimise mean loss + strength / 2 * |weight|^2 for one strength after another, as they are asked for;
    the bias is not penalised.

    `x` [n, D] should be standardised, `onehot` is [n, K] of 0 and 1. The loss is cross-entropy of a softmax,
    or the sum over classes of binary cross-entropies. scikit-learn's `C` is 1 / (strength * n). Each fit
    starts from the one before. `tolerance` bounds the preconditioned gradient.
    """
    rotation, spectrum = _eigenbasis(x)
    z = x @ rotation
    curvature = 0.5 if kind == "multiclass" else 0.25
    weight, bias = np.zeros((z.shape[1], onehot.shape[1])), np.zeros(onehot.shape[1])
    for strength in strengths:
        scale = 1 / np.sqrt(np.append(curvature * spectrum + strength, curvature))[:, None]
        start = np.vstack([weight, bias]) / scale
        found = minimize(
            _objective,
            start.ravel(),
            args=(z, onehot, kind, strength, scale),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_STEPS, "gtol": tolerance, "ftol": 1e-11, "maxcor": 20},
        )
        solution = found.x.reshape(start.shape) * scale
        weight, bias = solution[:-1], solution[-1]
        yield Logistic(kind, rotation @ weight, bias, bool(found.success))


def _objective(
    flat: Floats, z: Floats, onehot: Floats, kind: Kind, strength: float, scale: Floats
) -> tuple[float, Floats]:
    parameters = flat.reshape(scale.shape[0], -1) * scale
    weight, bias = parameters[:-1], parameters[-1]
    logits = z @ weight + bias
    if kind == "multiclass":
        peak = logits.max(1, keepdims=True)
        normaliser = peak + np.log(np.exp(logits - peak).sum(1, keepdims=True))
        loss = normaliser.sum() - (logits * onehot).sum()
        residual = np.exp(logits - normaliser) - onehot
    else:
        loss = np.logaddexp(0, logits).sum() - (logits * onehot).sum()
        residual = expit(logits) - onehot
    count = len(z)
    gradient = np.vstack([z.T @ residual / count + strength * weight, residual.mean(0)])
    return loss / count + strength / 2 * float((weight**2).sum()), (gradient * scale).ravel()


def _eigenbasis(x: Floats) -> tuple[Floats, Floats]:
    """Orthonormal directions [D, r] in which the features vary, and their mean squares [r]."""
    count, dimensions = x.shape
    if count >= dimensions:
        values, vectors = np.linalg.eigh(x.T @ x / count)
    else:
        values, left = np.linalg.eigh(x @ x.T / count)
        vectors = x.T @ left
    keep = values > 1e-10 * max(float(values[-1]), 1e-30)
    kept = vectors[:, keep]
    return kept / np.linalg.norm(kept, axis=0), values[keep]


VALIDATION_FOLDS = 3
VALIDATION_TOLERANCE = 1e-4  # a ranking of strengths needs less than the final fit
PATIENCE = 2
FALLBACK = 0.1  # for a single training case: there is nothing to validate on


@PROTOCOLS.register
class Linear(Protocol):
    """Softmax regression for one label a frame, one logistic regression per class for several; L2 penalty.

    The strength is the one of `strengths` (from strong to weak; ties go to the stronger) with the best headline of the
    task on the validation cases, or on held-out training cases where there are none (3 grouped folds, then one fit on
    all training frames). The walk ends after two strengths without a gain. The fit is the optimum, so that there is no
    learning rate to search. See `fit_path` for the objective.
    """

    name: Literal["linear"] = "linear"
    strengths: tuple[float, ...] = Field(
        default=(10.0, 1.0, 0.1, 0.01, 0.001, 0.0001),
        min_length=1,
        description="strengths of the penalty that are tried, from strong to weak",
    )

    def predict(self, problem: Problem) -> Prediction:
        """Choose the strength, fit, and give probabilities."""
        validation = self._validate(problem)
        best = best_of(validation)
        if best is None:
            best = int(np.argmin(np.abs(np.log(np.array(self.strengths) / FALLBACK))))
        train, test = problem.features(problem.train), problem.features(problem.test)
        features, queries = standardise(train, test)
        targets = one_hot(problem.targets[problem.train], len(problem.space.classes))
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
            fit_path(features, one_hot(problem.targets[fit], classes), kind, self.strengths, VALIDATION_TOLERANCE)
            for (fit, _), (features, _) in zip(rounds, standard, strict=True)
        ]
        headlines: list[float] = []
        for models in zip(*paths, strict=True):
            scores = [model.probabilities(queries) for model, (_, queries) in zip(models, standard, strict=True)]
            headlines.append(headline(problem, np.concatenate([held for _, held in rounds]), np.concatenate(scores)))
            if len(headlines) - 1 - (best_of(headlines) or 0) >= PATIENCE:
                break
        return [] if best_of(headlines) is None else headlines


def _rounds(problem: Problem) -> list[tuple[Ints, Ints]]:
    """Rows to (fit on, hold out): the validation cases, or grouped folds of the training cases."""
    if problem.val is not None:
        return [(problem.train, problem.val)]
    train, case = problem.train, problem.case[problem.train]
    cases = len(np.unique(case))
    if cases < 2:
        return []
    folds = GroupKFold(min(VALIDATION_FOLDS, cases)).split(train, groups=case)
    return [(train[fit], train[held]) for fit, held in folds]
