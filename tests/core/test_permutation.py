import numpy as np
import pytest

from trocar.core.random import Permutation


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1000, 4097, 65_537])
def test_every_element_occurs_exactly_once(n):
    values = Permutation(n, 3, "source", 0)(np.arange(n))
    assert (np.sort(values) == np.arange(n)).all()


def test_another_key_is_another_permutation():
    a, b = (Permutation(1000, 0, "source", epoch)(np.arange(1000)) for epoch in (0, 1))
    assert (a == b).sum() < 20


def test_neighbours_are_scattered_without_correlation():
    values = Permutation(100_000, 5, "x")(np.arange(100_000)).astype(float)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), values)[0, 1]) < 0.02


def test_any_part_of_a_huge_permutation_is_computed_alone():
    permutation = Permutation(10**9, 1)
    some = permutation(np.array([0, 5, 999_999_999]))
    assert (some == [*permutation(np.arange(6))[[0, 5]].tolist(), int(permutation(np.array([999999999]))[0])]).all()
    assert ((some >= 0) & (some < 10**9)).all()


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0)
