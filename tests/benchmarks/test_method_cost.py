"""What the table of costs counts."""

import sys
from pathlib import Path

import pytest

from trocar.ssl.engine.method import METHODS

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import method_cost

TOKENS, WIDTH, LAYERS = 197, 384, 12


def test_a_forward_pass_of_a_resnet_50_has_its_published_size():
    assert method_cost.forward_gmac("resnet50") == pytest.approx(4.09, abs=0.01)


def test_attention_is_counted():
    patches = 196 * WIDTH * 3 * 16**2
    blocks = LAYERS * (TOKENS * 12 * WIDTH**2 + 2 * TOKENS**2 * WIDTH)
    assert method_cost.forward_gmac("vit_small_patch16_224") == pytest.approx((patches + blocks) / 1e9, rel=1e-6)


def test_two_views_are_left_of_every_method_or_of_each_frame():
    for name in METHODS.names():
        groups = method_cost.two_views(name).recipe().groups
        assert all(group.size == 224 for group in groups.values()), name
        assert groups["global"].count == 2


def test_a_method_that_trains_both_views_costs_one_and_a_half_of_one_with_a_teacher():
    """Backward takes twice the forward pass: 2 x 3 against 3 + 1 passes, but for the heads and the first layer."""
    cost = {name: method_cost.gflop(method_cost.two_views(name), "resnet50", batch=4) for name in ("simclr", "moco_v2")}
    assert cost["simclr"] / cost["moco_v2"] == pytest.approx(6 / 4, rel=0.02)
    assert cost["moco_v2"] == pytest.approx(4 * 2 * 4.09, rel=0.03)
