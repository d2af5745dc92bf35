"""Calibration against torchmetrics and scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from metrics_factory import labelled, random_multiclass, random_multilabel
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from trocar.downstream.metrics import calibration
from trocar.downstream.metrics.registry import metrics_of


@pytest.mark.parametrize("seed", range(4))
def test_multiclass_values_equal_torchmetrics_and_scikit_learn(seed: int) -> None:
    outcome = random_multiclass(seed)
    scores, gt = torch.from_numpy(outcome.scores), torch.from_numpy(outcome.gt)
    expected = multiclass_calibration_error(scores, gt, 7, n_bins=15, norm="l1")
    assert calibration.ece(outcome) == pytest.approx(float(expected), abs=1e-6)
    assert calibration.nll(outcome) == pytest.approx(log_loss(outcome.gt, outcome.scores, labels=range(7)))
    per_class = [brier_score_loss(outcome.gt == k, outcome.scores[:, k], pos_label=1) for k in range(7)]
    assert calibration.brier_multiclass(outcome) == pytest.approx(sum(per_class))


@pytest.mark.parametrize("seed", range(4))
def test_multilabel_values_are_means_over_classes(seed: int) -> None:
    outcome = random_multilabel(seed)
    scores, gt = torch.from_numpy(outcome.scores), torch.from_numpy(outcome.gt)
    per_class = [float(binary_calibration_error(scores[:, k], gt[:, k], n_bins=15)) for k in range(7)]
    assert calibration.ece(outcome) == pytest.approx(np.mean(per_class), abs=1e-6)
    per_class = [brier_score_loss(outcome.gt[:, k], outcome.scores[:, k], pos_label=1) for k in range(7)]
    assert calibration.brier_multilabel(outcome) == pytest.approx(np.mean(per_class))


def test_the_ends_of_the_bins_belong_where_torchmetrics_puts_them() -> None:
    certain = labelled([0, 1, 0], [0, 1, 1], [0, 0, 1])
    assert calibration.ece(certain) == pytest.approx(1 / 3)
    confidences = np.array([1 / 15, 0.2, 0.6, 1.0, 0.0])[:, None]
    outcome = replace(random_multilabel(0), gt=np.array([[1], [0], [1], [1], [0]]), scores=confidences,
                      case=np.zeros(5, dtype=np.int64))  # fmt: skip
    expected = binary_calibration_error(torch.from_numpy(confidences[:, 0]), torch.tensor([1, 0, 1, 1, 0]), n_bins=15)
    assert calibration.ece(outcome) == pytest.approx(float(expected), abs=1e-6)


def test_brier_against_soft_labels_is_zero_where_the_model_predicts_the_share_of_annotators() -> None:
    outcome = random_multilabel(1)
    assert outcome.soft is not None
    honest = replace(outcome, scores=outcome.soft)
    assert calibration.brier_soft(honest) == 0
    assert calibration.brier_multilabel(honest) > 0.01
    assert calibration.brier_soft(outcome) == pytest.approx(np.mean((outcome.scores - outcome.soft) ** 2))


def test_scores_that_are_no_probabilities_get_no_calibration() -> None:
    outcome = random_multiclass(0)
    assert {"ece", "brier", "nll"} <= set(metrics_of("phase", outcome))
    assert not {"ece", "brier", "nll"} & set(metrics_of("phase", replace(outcome, scores=outcome.scores * 3)))
    assert "ece" not in metrics_of("cvs", replace(random_multilabel(0), scores=random_multilabel(0).scores - 0.5))


def test_frames_of_unscored_classes_do_not_count() -> None:
    outcome = random_multiclass(2)
    keep = outcome.gt != 3
    fewer = replace(outcome, gt=outcome.gt[keep], pred=outcome.pred[keep], scores=outcome.scores[keep],
                    case=outcome.case[keep])  # fmt: skip
    for metric in (calibration.ece, calibration.brier_multiclass, calibration.nll):
        assert metric(replace(outcome, unscored=(3,))) == pytest.approx(metric(fewer))
