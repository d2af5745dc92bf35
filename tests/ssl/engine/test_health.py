import math

import pytest
import torch

from trocar.ssl.engine.health import collapse, feature_std, rankme


def test_rankme_counts_equal_singular_values():
    q, _ = torch.linalg.qr(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))
    assert float(rankme(q)) == pytest.approx(8, abs=0.01)
    assert float(rankme(torch.ones(16, 4))) == pytest.approx(1, abs=0.01)


def test_rankme_is_on_singular_values_not_eigenvalues():
    x = torch.diag(torch.tensor([3.0, 1.0]))
    p = torch.tensor([0.75, 0.25])
    assert float(rankme(x)) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-4)


def test_feature_std_is_one_on_the_sphere_and_zero_at_a_point():
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert float(feature_std(x)) == pytest.approx(1, abs=0.02)
    assert float(feature_std(torch.ones(10, 64))) == pytest.approx(0, abs=1e-6)


def test_a_flat_loss_at_ln_k_is_named_and_a_healthy_one_is_not():
    uniform = math.log(1024)
    assert "ln K = 6.931" in collapse(uniform * 0.999, uniform * 0.999, uniform, 0.5)
    assert collapse(uniform * 0.999, uniform * 0.999, uniform, 0.1) is None
    assert collapse(5.0, 4.0, uniform, 0.5) is None
    assert collapse(7.5, 4.0, uniform, 0.5) is None
    assert "one prototype" in collapse(1e-5, 1e-6, uniform, 0.5)
    assert collapse(3.0, None, None, 0.9) is None
