"""A float32 product on a GPU is one, unless networks compute in bfloat16 beside it."""

import pytest
import torch

from trocar.backbones.device import float32_means_float32


def allowed():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "within"), [("float32", ("highest", False)), ("bfloat16", ("high", True))])
def test_tf32_is_allowed_beside_bfloat16_alone_and_as_before_afterwards(precision, within):
    before = allowed()
    with float32_means_float32(torch.device("cuda"), precision):
        assert allowed() == within
    assert allowed() == before
    with pytest.raises(ValueError, match="x"), float32_means_float32(torch.device("cuda"), precision):
        raise ValueError("x")
    assert allowed() == before


def test_on_a_cpu_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: pytest.fail("changed"))
    with float32_means_float32(torch.device("cpu"), "bfloat16"):
        pass
