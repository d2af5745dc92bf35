"""The loss of one task against its formula; balanced class weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trocar.downstream.labels import LabelSpace
from trocar.downstream.protocols.base import Goal
from trocar.downstream.tasks import get_task
from trocar.downstream.training.loss import Criterion, balanced_weights, make_criterion
from trocar.errors import ConfigError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, -2.0], [1.0, 1.0, 1.0]])


def goal(targets: np.ndarray, classes: int = 3) -> Goal:
    names = tuple(str(i) for i in range(classes))
    single = targets.ndim == 1
    space = LabelSpace("phase", "multiclass", names) if single else LabelSpace("tools", "multilabel", names)
    return Goal(get_task(space.task), space, targets)


def test_cross_entropy_is_the_weighted_mean_over_labelled_frames() -> None:
    weights = torch.tensor([1.0, 3.0, 1.0])
    found = Criterion("multiclass", weights)(LOGITS, np.array([0, 1, -1]))
    log_p = LOGITS.double().log_softmax(1).numpy()
    assert float(found) == pytest.approx((-log_p[0, 0] - 3 * log_p[1, 1]) / 4, abs=1e-6)


def test_class_weights_weigh_the_positives_of_several_labels() -> None:
    targets = np.array([[1.0, 0.0, 1 / 3], [-1.0, -1.0, -1.0], [0.0, 1.0, 1.0]])
    weights = np.array([3.198, 4.462, 2.795])
    found = Criterion("multilabel", torch.tensor(weights, dtype=torch.float32))(LOGITS, targets)
    use = [0, 2]
    p, y = torch.sigmoid(LOGITS).double().numpy()[use], targets[use]
    assert float(found) == pytest.approx(-(weights * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), abs=1e-5)


def test_smoothing_moves_the_targets_towards_the_middle() -> None:
    targets = np.array([[1.0, 0.0, 1.0]])
    smoothed = Criterion("multilabel", smoothing=0.2)(LOGITS[:1], targets)
    assert float(smoothed) == pytest.approx(float(Criterion("multilabel")(LOGITS[:1], targets * 0.8 + 0.1)), abs=1e-6)


@pytest.mark.parametrize(("kind", "targets"), [("multiclass", [-1, -1, -1]), ("multilabel", [[-1.0] * 3] * 3)])
def test_a_batch_without_labels_costs_nothing_and_moves_nothing(kind: str, targets: list[object]) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = Criterion(kind)(logits, np.array(targets))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_weights_come_from_the_training_rows_alone() -> None:
    targets = np.array([0, 0, 0, 1, 2, 1, 1, 1, -1])
    found = make_criterion(goal(targets), np.array([0, 1, 2, 3, 8]), "balanced", 0.0, "cpu").weights
    assert found is not None
    assert found.tolist() == pytest.approx([2 / 3, 2, 1])
    assert make_criterion(goal(targets), np.arange(9), "none", 0.0, "cpu").weights is None


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.0, 1.0)])
def test_weights_that_do_not_fit_the_classes_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="expected 3 positive numbers"):
        make_criterion(goal(np.array([0, 1, 2])), np.arange(3), weights, 0.0, "cpu")


def test_median_frequency_balancing_gives_the_middle_class_one_and_an_absent_class_one() -> None:
    assert balanced_weights(np.array([0] * 8 + [1] * 4 + [2] * 2 + [-1] * 5), 4).tolist() == [0.5, 1.0, 2.0, 1.0]
    assert balanced_weights(np.array([0, 0, 0, 0, 1, 1, 3]), 4).tolist() == [0.5, 1.0, 1.0, 2.0]


def test_positives_of_several_labels_weigh_as_much_as_the_negatives() -> None:
    tools = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1], [1, 0, 1]])
    assert balanced_weights(tools, 3) == pytest.approx([1 / 3, 1, 1])


def test_an_unlabelled_entry_counts_neither_as_positive_nor_as_negative() -> None:
    assert balanced_weights(np.array([[1, 0], [0, -1], [0, 0], [0, 1]]), 2).tolist() == [3.0, 2.0]


def test_soft_labels_count_as_shares() -> None:
    assert balanced_weights(np.array([[1 / 3], [2 / 3], [0.0], [1.0]]), 1) == pytest.approx([1.0])


def test_nothing_labelled_weighs_all_classes_alike() -> None:
    assert balanced_weights(np.array([-1, -1]), 3).tolist() == [1, 1, 1]
