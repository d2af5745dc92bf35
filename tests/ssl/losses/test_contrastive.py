"""Contrastive losses against their published formulas in float64 numpy; a frame is never its own negative."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trocar.ssl.losses import batch_contrast, info_nce, nt_xent


def unit_rows(rng, n, width=6):
    x = rng.normal(size=(n, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def single(x):
    return torch.tensor(x, dtype=torch.float32)


def cross_entropy(logits, target):
    """-log softmax at `target`, over a list of logits, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def published_nt_xent(first, second, rows, temperature):
    """SimCLR's eq. 1, looping over pairs; views of the same frame in another place are no negatives."""
    z, n, b = np.concatenate([first, second]), 2 * len(first), len(first)
    losses, ranked_first = [], []
    for i in range(n):
        j = (i + b) % n
        others = [k for k in range(n) if k == j or (k != i and rows[k % b] != rows[i % b])]
        logits = [z[i] @ z[k] / temperature for k in others]
        losses.append(cross_entropy(logits, others.index(j)))
        ranked_first.append(int(np.argmax(logits)) == others.index(j))
    return np.mean(losses), np.mean(ranked_first)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [7, 1, 7, 3, 7]], ids=["different frames", "a frame three times"])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_published_formula(rows, temperature):
    rng = np.random.default_rng(len(set(rows)))
    first, second = unit_rows(rng, 5), unit_rows(rng, 5)
    expected, accuracy = published_nt_xent(first, second, rows, temperature)
    loss, share = nt_xent(single(first), single(second), torch.tensor(rows), temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(share) == pytest.approx(accuracy)


def test_nt_xent_gives_both_views_the_gradient_of_the_formula():
    rng = np.random.default_rng(5)
    first, second, rows = unit_rows(rng, 4), unit_rows(rng, 4), [0, 1, 0, 2]
    views = [single(first).requires_grad_(), single(second).requires_grad_()]
    nt_xent(*views, torch.tensor(rows), 0.2)[0].backward()
    for which, x in enumerate((first, second)):
        for at in ((0, 0), (3, 2)):
            values = []
            for sign in (1, -1):
                moved = x.copy()
                moved[at] += sign * 1e-6
                values.append(published_nt_xent(*[(moved, second), (first, moved)][which], rows, 0.2)[0])
            assert float(views[which].grad[at]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3, abs=1e-5)


def test_a_batch_of_one_frame_has_no_negatives_and_no_loss():
    x = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    loss, accuracy = nt_xent(x, x.flip(1), torch.tensor([5, 5, 5]), 0.1)
    assert (float(loss), float(accuracy)) == (0, 1)


@pytest.mark.parametrize("marked", [0, 1, 5], ids=["none", "one", "all"])
def test_info_nce_is_the_published_formula_without_negatives_of_the_same_frame(marked):
    rng = np.random.default_rng(marked)
    query, key, bank = unit_rows(rng, 3), unit_rows(rng, 3), unit_rows(rng, 5)
    same = np.zeros((3, 5), bool)
    same[1, :marked] = True
    expected = np.mean(
        [
            cross_entropy([q @ k / 0.2] + [q @ n / 0.2 for n, mine in zip(bank, s, strict=True) if not mine], 0)
            for q, k, s in zip(query, key, same, strict=True)
        ]
    )
    ours = info_nce(single(query), single(key), single(bank), torch.tensor(same), 0.2)
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_info_nce_moves_the_query_only():
    tensors = [torch.randn(n, 4, requires_grad=True) for n in (2, 2, 3)]
    info_nce(*tensors, torch.zeros(2, 3, dtype=torch.bool), 0.2).backward()
    assert [t.grad is not None for t in tensors] == [True, False, False]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [4, 1, 4, 4]])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_batch_contrast_is_two_temperatures_times_the_cross_entropy_over_the_batch_s_keys(rows, temperature):
    rng = np.random.default_rng(4)
    query, keys = unit_rows(rng, 4), unit_rows(rng, 4)
    losses = []
    for i in range(4):
        others = [k for k in range(4) if k == i or rows[k] != rows[i]]
        losses.append(cross_entropy([query[i] @ keys[k] / temperature for k in others], others.index(i)))
    ours = batch_contrast(single(query), single(keys), torch.tensor(rows), temperature)
    assert float(ours) == pytest.approx(2 * temperature * np.mean(losses), rel=1e-5)


def test_batch_contrast_moves_the_query_only():
    query, keys = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    batch_contrast(query, keys, torch.arange(3), 0.2).backward()
    assert query.grad is not None
    assert keys.grad is None


def test_losses_are_computed_in_float32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    first, second, bank = (F.normalize(torch.randn(6, 32, generator=generator), dim=1) for _ in range(3))
    rows, nobody = torch.arange(6), torch.zeros(6, 6, dtype=torch.bool)

    def all_losses():
        return torch.stack(
            [
                nt_xent(first, second, rows, 0.1)[0],
                info_nce(first, second, bank, nobody, 0.2),
                batch_contrast(first, second, rows, 0.2),
            ]
        )

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = all_losses()
    assert inside.dtype == torch.float32
    assert torch.equal(inside, all_losses())
