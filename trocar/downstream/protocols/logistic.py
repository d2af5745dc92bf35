"""L2-regularised logistic regression, softmax or one-vs-rest, over a path of regularisation strengths.

The problem is solved in the eigenbasis of the training features, where a diagonal bound on the Hessian
(Boehning, 1992) is a good preconditioner: L-BFGS then needs tens of steps where it needs hundreds on raw
correlated features. The optimum is the same, because neither the loss nor the L2 penalty changes under a
rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Floats

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
