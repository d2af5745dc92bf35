"""k-NN against its definition, logistic regression against scikit-learn's optimum."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
from protocol_factory import make_problem
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from trocar.downstream.protocols import probes
from trocar.downstream.protocols.base import best_of, one_hot, standardise
from trocar.downstream.protocols.probes import KNN, Linear, Prior, fit_path


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
    scores = KNN().predict(make_problem(train, y[:70], case[:70], test, classes=3)).scores
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
    assert KNN().predict(make_problem(x, y, case, x, classes=3)).detail["k"] == 15
    tools = np.stack([y, 1 - y], axis=1)
    assert KNN().predict(make_problem(x, tools, case, x, classes=2)).detail["k"] == 20


def test_the_strength_is_the_best_on_held_out_training_cases_and_ties_go_to_the_stronger() -> None:
    x, y, case = problem(n=200)
    found = Linear().predict(make_problem(x, y, case, x[:5], classes=3)).detail
    validation = found["validation"]
    assert 1 <= len(validation) <= len(Linear().strengths)
    assert found["strength"] == Linear().strengths[validation.index(max(validation))]
    assert found["converged"]


def test_an_undefined_score_is_never_the_best() -> None:
    nan = float("nan")
    assert best_of([0.2, nan, 0.5, 0.5, nan]) == 2
    assert best_of([nan, nan]) is best_of([]) is None


def test_a_strength_without_a_score_is_neither_chosen_nor_waited_for() -> None:
    x, y, case = problem()
    given = make_problem(x, y, case, x[:5])
    told: Iterator[float] = iter([0.3, float("nan"), 0.9, 0.1] + [0.0] * 50)
    with patch.object(probes, "headline", lambda *_: next(told)):
        detail = Linear().predict(given).detail
    assert detail["strength"] == Linear().strengths[2]
    assert len(detail["validation"]) == min(2 + probes.PATIENCE + 1, len(Linear().strengths))


def test_without_any_score_the_usual_strength_is_taken() -> None:
    x, y, case = problem()
    given = make_problem(x, y, case, x[:5])
    with patch.object(probes, "headline", lambda *_: float("nan")):
        detail = Linear().predict(given).detail
    single = Linear().predict(make_problem(x, y, np.zeros_like(case), x[:5])).detail
    assert (detail["strength"], detail["validation"]) == (single["strength"], [])


def test_the_test_features_do_not_move_the_fit() -> None:
    x, y, case = problem(n=120)
    other = np.concatenate([x[:5], 1e3 + 50 * x[5:60]])
    for protocol in (KNN(), Linear()):
        alone, among = (protocol.predict(make_problem(x, y, case, test)).scores[:5] for test in (x[:5], other))
        assert among == pytest.approx(alone, abs=1e-9)


def test_a_choice_is_made_on_the_validation_cases_and_the_fit_on_the_training_cases() -> None:
    x, y, case = problem(n=200)
    held = case == 4
    found = Linear().predict(make_problem(x, y, case, x[:5], val=held))
    fitted = [Linear(strengths=(s,)).predict(make_problem(x[~held], y[~held], case[~held], x)) for s in (10.0, 0.01)]
    score = [f1_score(y[held], p.scores[held].argmax(1), average="macro") for p in fitted]
    validation = found.detail["validation"]
    assert validation[0] == pytest.approx(score[0], abs=0.02)
    alone = Linear(strengths=(found.detail["strength"],)).predict(make_problem(x[~held], y[~held], case[~held], x[:5]))
    assert found.scores == pytest.approx(alone.scores, abs=1e-4)


def test_one_training_case_is_fitted_without_validation() -> None:
    x, y, _ = problem()
    found = Linear().predict(make_problem(x, y, np.zeros(len(x), dtype=int), x, classes=3))
    assert found.detail["validation"] == []
    assert found.detail["strength"] == 0.1
    assert (found.scores.argmax(1) == y).mean() > 0.7


def test_the_majority_predictor_answers_with_the_prevalence() -> None:
    y = np.array([0, 1, 1, 1])
    scores = Prior().predict(make_problem(np.zeros((4, 1)), y, y, np.zeros((2, 1)))).scores
    assert scores.tolist() == [[0.25, 0.75, 0.0]] * 2
