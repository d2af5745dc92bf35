"""Cross-entropy and truncated MSE against loops and numbers written down by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trocar.downstream.training.loss import LossConfig, TemporalLoss, build_loss, classification_loss, truncated_mse
from trocar.errors import ConfigError


def case(frames=12, classes=3, scale=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(frames, classes, generator=generator) * scale
    targets = torch.randint(0, classes, (frames,), generator=generator)
    targets[[3, 7]] = -1
    return logits, targets


def looped_tmse(log_p, known, truncate):
    """The formula, element by element."""
    total, count = 0.0, 0
    for t in range(1, len(log_p)):
        for c in range(log_p.shape[1]):
            if known[t, c] and known[t - 1, c]:
                total += min((log_p[t, c] - log_p[t - 1, c]) ** 2, truncate)
                count += 1
    return total / count


def test_truncated_mse_is_the_formula():
    logits, targets = case()
    log_p = logits.double().numpy() - np.log(np.exp(logits.double().numpy()).sum(1, keepdims=True))
    known = np.repeat((targets.numpy() >= 0)[:, None], 3, axis=1)
    jumps = np.diff(log_p, axis=0) ** 2
    assert (jumps > 16).any()
    assert (jumps < 16).any()
    expected = looped_tmse(log_p, known, 16.0)
    assert truncated_mse(logits, targets, "multiclass", 16.0).item() == pytest.approx(expected, rel=1e-5)


def test_truncated_mse_of_several_labels_is_the_formula_on_log_sigmoids():
    logits, _ = case()
    targets = torch.tensor([[1, 0, -1]] * 5 + [[0, -1, 1]] * 7)
    log_p = -np.log1p(np.exp(-logits.double().numpy()))
    expected = looped_tmse(log_p, targets.numpy() >= 0, 16.0)
    assert truncated_mse(logits, targets, "multilabel", 16.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_earlier_frame_gets_no_gradient_from_the_jump():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    truncated_mse(logits, torch.tensor([0, 1]), "multiclass", 16.0).backward()
    assert logits.grad[0].tolist() == [0.0, 0.0]
    assert logits.grad[1].abs().min() > 0


def test_a_truncated_jump_has_no_gradient():
    logits = torch.tensor([[20.0, 0.0], [0.0, 20.0]], requires_grad=True)
    loss = truncated_mse(logits, torch.tensor([0, 1]), "multiclass", 16.0)
    loss.backward()
    assert loss.item() == 16.0
    assert logits.grad.abs().max() == 0


def test_class_weights_weigh_as_in_the_weighted_mean():
    logits, targets = case()
    weights = torch.tensor([0.5, 1.0, 3.0])
    log_p = logits.log_softmax(1)
    labelled = [t for t in range(12) if targets[t] >= 0]
    total = sum(-weights[targets[t]] * log_p[t, targets[t]] for t in labelled)
    expected = total / sum(weights[targets[t]] for t in labelled)
    torch.testing.assert_close(classification_loss(logits, targets, "multiclass", weights), expected)


def test_positive_weights_weigh_the_positives_of_several_labels():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
    targets = torch.tensor([[1, 0], [-1, 1]])
    p = logits.sigmoid()
    expected = (-2.0 * p[0, 0].log() - (1 - p[0, 1]).log() - 5.0 * p[1, 1].log()) / 3
    torch.testing.assert_close(classification_loss(logits, targets, "multilabel", torch.tensor([2.0, 5.0])), expected)


def test_soft_labels_are_taken_as_they_are():
    logits, soft = torch.tensor([[0.4]]), torch.tensor([[2 / 3]])
    p = 1 / (1 + math.exp(-0.4))
    expected = -(2 / 3 * math.log(p) + 1 / 3 * math.log(1 - p))
    assert classification_loss(logits, soft, "multilabel", None).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_unlabelled_frames_have_no_gradient(kind):
    logits, targets = case()
    if kind == "multilabel":
        targets = torch.where(targets[:, None] < 0, -1, F.one_hot(targets.clamp(min=0), 3))
    logits.requires_grad_()
    TemporalLoss(kind, None, 0.15, 16.0)([logits], targets).backward()
    silent = logits.grad.abs().amax(1) == 0
    assert torch.nonzero(silent).flatten().tolist() == [3, 7]


def test_the_loss_is_summed_over_the_stages():
    (one, targets), (two, _) = case(seed=0), case(seed=1)
    loss = TemporalLoss("multiclass", None, 0.15, 16.0)
    torch.testing.assert_close(loss([one, two], targets), loss([one], targets) + loss([two], targets))
    expected = classification_loss(one, targets, "multiclass", None) + 0.15 * truncated_mse(
        one, targets, "multiclass", 16.0
    )
    torch.testing.assert_close(loss([one], targets), expected)


def test_a_case_without_labels_or_with_one_frame_has_a_loss():
    loss = TemporalLoss("multiclass", None, 0.15, 16.0)
    logits = torch.randn(4, 3, requires_grad=True)
    nothing = loss([logits], torch.full((4,), -1))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0
    one = torch.tensor([[0.0, 0.0, 0.0]])
    assert loss([one], torch.tensor([1])).item() == pytest.approx(math.log(3))


def test_balanced_weights_are_of_all_cases_together():
    targets = [np.array([0] * 8 + [1] * 4), np.array([2] * 2 + [-1] * 5)]
    assert build_loss(LossConfig(), targets, 4, "multiclass").weights.tolist() == [0.5, 1.0, 2.0, 1.0]


def test_given_class_weights_are_used():
    loss = build_loss(LossConfig(class_weights=[1.0, 2.0]), [np.array([0, 1])], 2, "multiclass")
    assert loss.weights.tolist() == [1.0, 2.0]
    assert build_loss(LossConfig(class_weights="none"), [np.array([0, 1])], 2, "multiclass").weights is None


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_class_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ConfigError, match=r"loss.class_weights .* expected 2 positive numbers"):
        build_loss(LossConfig(class_weights=weights), [np.array([0, 1])], 2, "multiclass")
