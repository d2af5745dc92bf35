"""How fast data move is measured, and what arrives is compared with what was sent."""

import pytest
import torch

from trocar.diagnostics.gpu import speed
from trocar.diagnostics.gpu.runner import Subject


@pytest.fixture
def subject(tmp_path):
    return Subject(torch.device("cpu"), tmp_path / "catalog")


def test_copies_between_host_and_device_have_a_rate_and_are_equal(subject, monkeypatch):
    found = speed.host(subject)
    assert found.passed
    assert min(found.values.values()) > 0
    monkeypatch.setattr(torch, "equal", lambda one, other: False)
    assert speed.host(subject).passed is False


@pytest.mark.slow
def test_two_ranks_reduce_to_the_right_sum_at_a_rate_of_the_bus(subject):
    found = speed.ranks(subject)
    assert found.passed
    assert found.values["ranks"] == 2
    # 2 (n - 1) / n bytes pass each link for a byte of the tensor
    assert found.values["bus_gb_per_s"] == pytest.approx(found.values["bytes"] / found.values["seconds"] / 1e9)
    assert found.values["bytes"] == 2**20
