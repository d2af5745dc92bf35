"""The class of every pixel is that of torch's argmax, ties and NaN included."""

from __future__ import annotations

import math

import pytest
import torch

from trocar.downstream.segmentation.predict import class_map

SHAPE = (2, 7, 33, 41)


def same(logits: torch.Tensor) -> bool:
    found = class_map(logits)
    return found.dtype is torch.uint8 and bool((found.long() == logits.argmax(1)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_class_map_is_argmax_of_random_logits(dtype: torch.dtype) -> None:
    assert same(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_first_of_equal_logits_wins(levels: int) -> None:
    logits = torch.randint(0, levels, SHAPE, generator=torch.Generator().manual_seed(1)).float()
    assert same(logits)
    assert int(class_map(torch.tensor([[1.0, 3.0, 3.0, 2.0]])[..., None])) == 1
    assert int(class_map(torch.tensor([[-0.0, 0.0]])[..., None])) == 0


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_nan_and_infinity_are_ordered_as_torch_orders_them(share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(SHAPE, generator=generator)
    for value in (math.inf, -math.inf, math.nan):
        logits[torch.rand(SHAPE, generator=generator) < share] = value
    assert logits.isnan().any()
    assert same(logits)


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(SHAPE)
    before = logits.clone()
    class_map(logits)
    assert torch.equal(logits, before)


def test_a_strided_view_gives_the_same() -> None:
    assert same(torch.randn(2, 80, 80, 5).permute(0, 3, 1, 2)[..., :41])
