"""The grain of tissue that tells procedures apart."""

from itertools import combinations

import numpy as np
import pytest

from trocar.phantom.materials import GRAINS
from trocar.phantom.spec import PROCEDURES


def test_every_procedure_has_a_grain() -> None:
    assert set(GRAINS) == set(PROCEDURES)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_grain_is_a_bounded_tile_that_a_small_view_can_show(procedure: str) -> None:
    tile = GRAINS[procedure](np.random.default_rng(0))
    assert tile.shape == (256, 256)
    assert -1 <= tile.min() < -0.5
    assert 0.4 < tile.max() <= 1.15
    # Most of its power below the 48 cycles per view height of a view of 96 pixels.
    power = np.abs(np.fft.fft2(tile - tile.mean())) ** 2
    cycles = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256) * 256] * 2))
    assert power[cycles < 48].sum() > 0.5 * power.sum()


def test_grains_of_two_procedures_look_unlike() -> None:
    def moments(procedure: str) -> np.ndarray:
        tile = GRAINS[procedure](np.random.default_rng(5))
        gy, gx = np.gradient(tile)
        tensor = np.array([[np.mean(gx * gx), np.mean(gx * gy)], [np.mean(gx * gy), np.mean(gy * gy)]])
        low, high = np.linalg.eigvalsh(tensor)
        skew = np.mean((tile - tile.mean()) ** 3) / tile.std() ** 3
        return np.array([low / high, skew])

    found = {procedure: moments(procedure) for procedure in PROCEDURES}
    for one, other in combinations(PROCEDURES, 2):
        assert np.abs(found[one] - found[other]).max() > 0.3
