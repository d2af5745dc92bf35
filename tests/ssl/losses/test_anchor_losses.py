"""The losses of an anchor against float64 references that are written from the papers, and published numbers."""

import numpy as np
import pytest
import torch

from trocar.ssl.anchor_losses import batch_gram_anchoring, gram_anchoring, kernel_alignment

S = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])
T = torch.tensor([[[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]])
LOSSES = [gram_anchoring, kernel_alignment]


def tokens(seed, n=3, number=7, width=5):
    return torch.randn(n, number, width, generator=torch.Generator().manual_seed(seed))


def gram_reference(s, t):
    values = []
    for a, b in zip(s.double().numpy(), t.double().numpy(), strict=True):
        for i in range(len(a)):
            for j in range(len(a)):
                cosines = [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for x in (a, b)]
                values.append((cosines[0] - cosines[1]) ** 2)
    return float(np.mean(values))


def alignment_reference(s, t):
    """Centring by H = I - 11^T / N from both sides, as the kernel alignment of Cortes et al. is defined."""
    values = []
    for a, b in zip(s.double().numpy(), t.double().numpy(), strict=True):
        centre = np.eye(len(a)) - 1 / len(a)
        k, m = (centre @ (x @ x.T) @ centre for x in (a, b))
        values.append(1 - np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))
    return float(np.mean(values))


def test_numbers_that_were_worked_out_by_hand():
    assert float(gram_anchoring(S, T)) == pytest.approx(0.222222, abs=1e-6)
    assert float(kernel_alignment(S, T)) == pytest.approx(0.418682, abs=1e-6)
    normalised = [torch.nn.functional.normalize(x, dim=-1) for x in (S, T)]
    assert float(kernel_alignment(*normalised)) == pytest.approx(0.664493, abs=1e-6)  # what it is not
    assert float(batch_gram_anchoring(S[0], T[0])) == pytest.approx(0.222222, abs=1e-6)


def test_losses_are_those_of_the_references():
    s, t = 3 * tokens(1) + 1, tokens(2)
    assert float(gram_anchoring(s, t)) == pytest.approx(gram_reference(s, t), rel=1e-5)
    assert float(kernel_alignment(s, t)) == pytest.approx(alignment_reference(s, t), rel=1e-5)
    assert float(batch_gram_anchoring(s[0], t[0])) == pytest.approx(gram_reference(s[:1], t[:1]), rel=1e-5)


def test_negative_cosines_stay_negative():
    """Clipped at 0, as in DINOv3's default, opposite patches and right angles would be the same."""
    opposite, right = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert float(gram_anchoring(opposite, right)) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_picture_is_compared_with_itself_alone(loss):
    s, t = tokens(1), tokens(2)
    alone = torch.stack([loss(s[i : i + 1], t[i : i + 1]) for i in range(len(s))])
    assert torch.allclose(loss(s, t), alone.mean(), rtol=1e-5)


def test_features_may_turn_and_their_least_values_are_where_they_did_not_change():
    s = tokens(1)
    turned = s @ torch.linalg.qr(tokens(3)[0, :5]).Q
    for loss in LOSSES:
        assert float(loss(turned, s)) == pytest.approx(0, abs=1e-6)
    assert float(batch_gram_anchoring(turned[0], s[0])) == pytest.approx(0, abs=1e-6)
    assert float(gram_anchoring(s, s)) == float(batch_gram_anchoring(s[0], s[0])) == 0


def test_lengths_of_tokens_count_in_the_kernel_alone():
    s, t = tokens(1), tokens(2)
    longer = s * torch.linspace(1, 3, 7)[:, None]
    assert torch.allclose(gram_anchoring(longer, t), gram_anchoring(s, t), rtol=1e-5)
    assert abs(float(kernel_alignment(longer, t) - kernel_alignment(s, t))) > 1e-3
    assert torch.allclose(kernel_alignment(5 * s, t), kernel_alignment(s, t), rtol=1e-5)


@pytest.mark.parametrize("loss", [*LOSSES, lambda s, t: batch_gram_anchoring(s[0], t[0])])
def test_only_the_student_takes_a_gradient_and_it_is_that_of_the_loss(loss):
    s, t = tokens(1).requires_grad_(), tokens(2).requires_grad_()
    loss(s, t).backward()
    assert t.grad is None
    step = 1e-2 * tokens(4)
    difference = loss(s.detach() + step, t) - loss(s.detach() - step, t)
    assert float(difference.detach()) == pytest.approx(2 * float((s.grad * step).sum()), rel=2e-2)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_leaves_products_in_float32(loss):
    s, t = tokens(1), tokens(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(s, t)
    assert half.dtype == torch.float32
    assert torch.equal(half, loss(s, t))
