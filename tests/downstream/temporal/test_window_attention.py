"""Blocked window attention against the dense matrix it stands for."""

import pytest
import torch

from trocar.downstream.temporal.head import _allowed, window_attention
from trocar.downstream.temporal.heads.asformer import AsFormerLayer


def dense(query, key, value, before, after):
    """Frame t sees the frames t - before .. t + after, written as one masked T x T softmax."""
    frames = query.shape[-2]
    t = torch.arange(frames)
    distance = t[None, :] - t[:, None]
    allowed = (distance >= -before) & (distance <= after)
    energy = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return energy.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (4, 3), (64, 63), (9, 0), (0, 9), (500, 500)])
@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65, 150])
def test_blocks_give_what_the_dense_matrix_gives(frames, before, after):
    generator = torch.Generator().manual_seed(frames)
    query, key = (torch.randn(2, frames, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    value = torch.randn(2, frames, 3, generator=generator, dtype=torch.float64)
    found = window_attention(query, key, value, before, after)
    torch.testing.assert_close(found, dense(query, key, value, before, after))


def test_the_gradient_is_that_of_the_dense_matrix_and_finite_in_a_last_block_that_is_not_full():
    parts = [torch.randn(1, 70, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    found = torch.autograd.grad(window_attention(*parts, 2, 1).square().sum(), parts)
    expected = torch.autograd.grad(dense(*parts, 2, 1).square().sum(), parts)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_no_row_is_without_a_key():
    assert _allowed(frames=70, blocks=2, block=64, before=2, after=1, device=torch.device("cpu")).any(-1).all()


@pytest.mark.parametrize("window", [1, 2, 8, 32])
def test_the_window_of_an_asformer_layer_is_each_frames_own(window):
    # A mask in which the frames of a block share the union of their windows differs from frame 1 of a block on.
    torch.manual_seed(0)
    layer = AsFormerLayer(8, window, dropout=0.0, weight=1.0).double()
    local = torch.rand(1, 8, 100, dtype=torch.float64)
    normal = (local - local.mean(2, keepdim=True)) / (local.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    query, key, value = (part(normal).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    seen = dense(query, key, value, window // 2, window - window // 2 - 1)
    torch.testing.assert_close(layer._attend(local, None), layer.attended(seen.transpose(1, 2).relu()))


def test_a_decoder_takes_its_values_from_the_coder_before_it():
    torch.manual_seed(0)
    layer = AsFormerLayer(8, 4, dropout=0.0, weight=1.0)
    local, previous = torch.rand(1, 8, 20), torch.rand(1, 8, 20)
    changed = previous.clone()
    changed[..., 10] += 1
    difference = (layer._attend(local, previous) - layer._attend(local, changed)).abs().amax((0, 1))
    # A window of 4 is t - 2 .. t + 1, so frame 10 is seen from 9 to 12.
    assert torch.nonzero(difference).flatten().tolist() == [9, 10, 11, 12]
