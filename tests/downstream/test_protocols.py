"""k-NN against its definition, logistic regression against scikit-learn's optimum."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trocar.downstream.protocols.base import TrainingSet, one_hot, standardise
from trocar.downstream.protocols.knn import knn
from trocar.downstream.protocols.linear import STRENGTHS, linear
from trocar.downstream.protocols.logistic import fit_path
from trocar.downstream.protocols.prior import prior
from trocar.downstream.tasks.phase import PHASE
from trocar.downstream.tasks.tools import TOOLS


def problem(n: int = 90, dimensions: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, dimensions))
    y = generator.integers(0, 3, n)
    mixing = generator.normal(size=(dimensions, dimensions))
    x = (centres[y] + generator.normal(size=(n, dimensions))) @ mixing
    return x, y, generator.integers(0, 5, n)


@pytest.mark.parametrize("dimensions", [6, 150])
def test_the_softmax_optimum_is_scikit_learns(dimensions: int) -> None:
    x, y, _ = problem(dimensions=dimensions)
    (x,) = standardise(x)
    *_, model = fit_path(x, one_hot(y, 3), "multiclass", (0.1, 0.02))
    reference = LogisticRegression(C=1 / (0.02 * len(x)), tol=1e-9, max_iter=20_000).fit(x, y)
    assert model.probabilities(x) == pytest.approx(reference.predict_proba(x), abs=1e-3)
    assert model.weight - model.weight.mean(1, keepdims=True) == pytest.approx(reference.coef_.T, abs=1e-3)


def test_one_logistic_regression_per_tool_is_scikit_learns() -> None:
    x, y, _ = problem()
    (x,) = standardise(x)
    labels = np.stack([y == 0, y > 0], axis=1).astype(np.int64)
    (model,) = fit_path(x, one_hot(labels, 2), "multilabel", (0.05,))
    for tool in range(2):
        reference = LogisticRegression(C=1 / (0.05 * len(x)), tol=1e-9, max_iter=20_000).fit(x, labels[:, tool])
        assert model.probabilities(x)[:, tool] == pytest.approx(reference.predict_proba(x)[:, 1], abs=1e-3)


def test_constant_dimensions_do_no_harm() -> None:
    x, y, _ = problem()
    padded = np.concatenate([x, np.full((len(x), 2), 7.0)], axis=1)
    (with_constant,), (without,) = standardise(padded), standardise(x)
    assert (with_constant[:, -2:] == 0).all()
    (a,), (b,) = (list(fit_path(z, one_hot(y, 3), "multiclass", (0.1,))) for z in (with_constant, without))
    assert a.probabilities(with_constant) == pytest.approx(b.probabilities(without), abs=1e-4)


def test_knn_is_its_definition() -> None:
    x, y, case = problem()
    train, test = x[:70], x[70:]
    scores = knn(PHASE, TrainingSet(train, y[:70], case[:70], 3), test).scores
    a, b = (x[:70] - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)
    for query, found in zip(b, scores, strict=True):
        cosine = np.array([q @ query / np.linalg.norm(q) / np.linalg.norm(query) for q in a])
        nearest = np.argsort(-cosine)[:20]
        votes = np.zeros(3)
        for i in nearest:
            votes[y[i]] += np.exp(cosine[i] / 0.07)
        assert found == pytest.approx(votes / votes.sum(), abs=1e-9)


def test_k_is_at_most_the_mean_number_of_frames_of_the_classes_that_occur() -> None:
    x, y, case = problem(n=30)
    y[y == 2] = 1
    assert knn(PHASE, TrainingSet(x, y, case, 3), x).detail["k"] == 15
    tools = np.stack([y, 1 - y], axis=1)
    assert knn(TOOLS, TrainingSet(x, tools, case, 2), x).detail["k"] == 20


def test_the_strength_is_the_best_on_held_out_training_cases_and_ties_go_to_the_stronger() -> None:
    x, y, case = problem(n=200)
    found = linear(PHASE, TrainingSet(x, y, case, 3), x[:5]).detail
    validation = found["validation"]
    assert 1 <= len(validation) <= len(STRENGTHS)
    assert found["strength"] == STRENGTHS[validation.index(max(validation))]
    assert found["converged"]


def test_the_test_features_do_not_move_the_fit() -> None:
    x, y, case = problem(n=120)
    train = TrainingSet(x, y, case, 3)
    other = np.concatenate([x[:5], 1e3 + 50 * x[5:60]])
    for protocol in (knn, linear):
        assert protocol(PHASE, train, other).scores[:5] == pytest.approx(protocol(PHASE, train, x[:5]).scores, abs=1e-9)


def test_one_training_case_is_fitted_without_validation() -> None:
    x, y, _ = problem()
    found = linear(PHASE, TrainingSet(x, y, np.zeros(len(x), dtype=int), 3), x)
    assert found.detail["validation"] == []
    assert found.detail["strength"] == 0.1
    assert (found.scores.argmax(1) == y).mean() > 0.7


def test_the_majority_predictor_answers_with_the_prevalence() -> None:
    y = np.array([0, 1, 1, 1])
    scores = prior(PHASE, TrainingSet(np.zeros((4, 1)), y, y, 3), np.zeros((2, 1))).scores
    assert scores.tolist() == [[0.25, 0.75, 0.0]] * 2
