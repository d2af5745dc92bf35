"""SwAV's codes and swapped prediction against the paper's equations, worked out in float64 numpy."""

import math

import numpy as np
import pytest
import torch

from trocar.ssl.losses import codes, swapped_prediction


def published_codes(scores, epsilon, iterations=3):
    """Appendix A of one view's scores [n, K]: rows of the transport plan, scaled to distributions."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    K, n = q.shape
    for _ in range(iterations):
        q *= (1 / K) / q.sum(1, keepdims=True)
        q *= (1 / n) / q.sum(0, keepdims=True)
    return (q / q.sum(0, keepdims=True)).T


def published_loss(scores, targets, temperature):
    """Eq. 2 for codes of the first T of V views, [V, b, K] and [T, b, K]."""
    e = np.exp(scores / temperature)
    log_p = np.log(e / e.sum(-1, keepdims=True))
    T, V = len(targets), len(scores)
    terms = [-(targets[t] * log_p[v]).sum(-1).mean() for t in range(T) for v in range(V) if v != t]
    assert len(terms) == T * (V - 1)
    return np.mean(terms)


def cosines(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def test_codes_are_balanced_for_each_view_by_itself():
    scores = cosines(2, 6, 5)
    ours = codes(torch.tensor(scores).float(), None, 0.05, 3).numpy()
    np.testing.assert_allclose(ours, [published_codes(view, 0.05) for view in scores], rtol=1e-3, atol=1e-6)
    together = published_codes(scores.reshape(12, 5), 0.05).reshape(2, 6, 5)
    assert np.abs(ours - together).max() > 0.01  # DINOv2's way, over both views, is another one


def test_the_queue_takes_part_in_the_balance_and_gets_no_codes():
    scores, queued = cosines(2, 4, 5), cosines(2, 9, 5, seed=1)
    ours = codes(torch.tensor(scores).float(), torch.tensor(queued).float(), 0.05, 3).numpy()
    expected = [published_codes(np.concatenate(pair), 0.05)[:4] for pair in zip(scores, queued, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


def test_codes_take_no_gradient():
    scores = torch.tensor(cosines(2, 3, 4)).float().requires_grad_()
    assert not codes(scores, None, 0.05, 3).requires_grad


@pytest.mark.parametrize("views", [2, 8])
def test_each_view_predicts_the_codes_of_all_other_views(views):
    scores = cosines(views, 4, 7, seed=views)
    targets = np.stack([published_codes(view, 0.05) for view in scores[:2]])
    ours = swapped_prediction(torch.tensor(scores).float(), torch.tensor(targets).float(), 0.1)
    assert float(ours) == pytest.approx(published_loss(scores, targets, 0.1), rel=1e-5)


def test_uniform_scores_give_ln_k():
    scores = torch.zeros(8, 3, 64)
    loss = swapped_prediction(scores, codes(scores[:2], None, 0.05, 3), 0.1)
    assert float(loss) == pytest.approx(math.log(64), rel=1e-6)


def test_codes_are_finite_at_the_smallest_epsilon_allowed():
    scores = torch.cat([torch.ones(2, 64, 1), -torch.ones(2, 64, 2999)], -1)  # a collapsed network
    assert codes(scores, scores.repeat(1, 60, 1), 0.02, 3).isfinite().all()
