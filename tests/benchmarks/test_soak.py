"""The soak sees what grows: by its slope on numbers, and in a loader with a leak planted."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import soak

STEPS = range(0, 20_000, 200)


def test_a_slope_is_per_thousand_steps_of_the_second_half_with_the_error_of_least_squares():
    rng = np.random.default_rng(0)
    start = [1e6 if step < 5_000 else 0.0 for step in STEPS]  # what is allocated at first doesn't count
    values = [a + 3 * step / 1000 + b for a, step, b in zip(start, STEPS, rng.normal(size=100), strict=True)]
    found = soak.slope(list(STEPS), values)
    x = np.arange(10_000, 20_000, 200) / 1000
    coefficients, covariance = np.polyfit(x, values[50:], 1, cov=True)
    assert found.value == pytest.approx(coefficients[0])
    assert found.error == pytest.approx(np.sqrt(covariance[0, 0]))
    assert abs(found.value - 3) < 4 * found.error


def test_what_is_flat_or_below_the_limit_or_chance_is_no_leak():
    assert not soak.Slope(0.0, 0.0).grows(0)
    assert not soak.Slope(0.9, 0.1).grows(1)
    assert not soak.Slope(2.0, 1.0).grows(1)
    assert soak.Slope(2.0, 0.1).grows(1)
    with pytest.raises(ValueError, match="too few"):
        soak.slope([1, 2, 3], [1, 2, 3])


@pytest.mark.slow
def test_a_planted_leak_of_memory_and_files_is_found_and_without_it_there_is_none(tmp_path):
    tmp_path.joinpath("soak").mkdir()
    leaking = soak.measure("loader", "torch", 300, tmp_path / "soak", plant=True)
    assert leaking.leaks
    assert leaking.memory.value == pytest.approx(1000 * 2**16, rel=0.2)
    assert leaking.descriptors.value == pytest.approx(1000, rel=0.05)
    assert not soak.measure("loader", "torch", 300, tmp_path / "soak").descriptors.grows(100)


@pytest.mark.slow
def test_a_short_training_does_not_open_a_file_every_ten_steps(tmp_path):
    assert not soak.measure("trainer", "torch", 300, tmp_path).descriptors.grows(100)
