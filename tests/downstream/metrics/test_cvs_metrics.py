"""CVS metrics against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metrics_factory import random_multilabel
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from trocar.downstream.metrics import multilabel
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.registry import metrics_of


def criteria(seed: int) -> Outcome:
    """Three criteria that occur."""
    return random_multilabel(seed, classes=4).once(_without_last)


def _without_last(outcome: Outcome) -> Outcome:
    assert outcome.soft is not None
    columns = {name: getattr(outcome, name)[:, :-1] for name in ("gt", "pred", "scores", "soft")}
    return replace(outcome, **columns)


@pytest.mark.parametrize("seed", range(3))
def test_ap_per_criterion_and_balanced_accuracy_equal_scikit_learn(seed: int) -> None:
    outcome = criteria(seed)
    aps = [average_precision_score(outcome.gt[:, c], outcome.scores[:, c]) for c in range(3)]
    assert multilabel.mean_ap(outcome) == pytest.approx(np.mean(aps))
    assert [multilabel.criterion_ap(outcome, criterion=c) for c in range(3)] == pytest.approx(aps)
    balanced = [balanced_accuracy_score(outcome.gt[:, c], outcome.pred[:, c]) for c in range(3)]
    assert multilabel.balanced_accuracy(outcome) == pytest.approx(np.mean(balanced))


def test_a_criterion_that_is_never_achieved_is_dropped() -> None:
    outcome = criteria(0)
    never = replace(outcome, gt=outcome.gt * np.array([1, 1, 0]))
    aps = [average_precision_score(outcome.gt[:, c], outcome.scores[:, c]) for c in range(2)]
    assert multilabel.mean_ap(never) == pytest.approx(np.mean(aps))
    assert np.isnan(multilabel.criterion_ap(never, criterion=2))
    balanced = [balanced_accuracy_score(outcome.gt[:, c], outcome.pred[:, c]) for c in range(2)]
    assert multilabel.balanced_accuracy(never) == pytest.approx(np.mean(balanced))


def test_soft_brier_needs_the_annotators() -> None:
    assert "brier@soft" in metrics_of("cvs", criteria(0))
    assert "brier@soft" not in metrics_of("cvs", replace(criteria(0), soft=None))
