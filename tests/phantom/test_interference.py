"""What a hospital's video chain adds to every frame."""

import numpy as np
import pytest

from trocar.phantom.optics import HOUSES, Interference, Ripple


def test_a_ripple_is_a_plane_wave_that_moves_at_its_rate() -> None:
    made = Interference([Ripple(8, 30, 12, 0.5)], np.random.default_rng(0), (120, 80), fps=5)
    start = np.random.default_rng(0).uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:80, 0:120] / 80
    for frame in (0, 7, 500):
        where = 2 * np.pi * 8 * (x * np.cos(np.pi / 6) + y * np.sin(np.pi / 6))
        expected = 12 * np.cos(where - start - 2 * np.pi * 0.5 * frame / 5)
        assert np.abs(made(frame) - expected).max() < 1e-3


def test_ripples_add_up() -> None:
    both = [Ripple(8, 0, 10, 0.5), Ripple(4, 90, 5, 0.2)]
    rng = np.random.default_rng(3)
    made = Interference(both, rng, (64, 64), fps=5)(11)
    assert made.shape == (64, 64)
    # Whole periods over the picture: powers add.
    assert made.var() == pytest.approx(10**2 / 2 + 5**2 / 2, rel=1e-3)


def test_hospitals_disturb_the_picture_in_directions_of_their_own() -> None:
    def spectrum(hospital: str) -> set[tuple[int, int]]:
        field = Interference(HOUSES[hospital].ripples, np.random.default_rng(1), (240, 240), fps=5)(0)
        power = np.abs(np.fft.rfft2(field))
        return {(int(r), int(c)) for r, c in zip(*np.nonzero(power > 0.3 * power.max()), strict=True)}

    north, south = spectrum("north"), spectrum("south")
    assert north
    assert south
    assert not north & south
