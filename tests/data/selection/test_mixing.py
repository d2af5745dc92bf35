import pytest

from trocar.data.selection.selection import limit_repeats, nominal_shares
from trocar.errors import ConfigError

SIZES = {"a": 100, "b": 900, "c": 9000}


def test_sqrt_uniform_and_given_weights():
    assert nominal_shares(SIZES, "uniform") == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    total = 10 + 30 + 9000**0.5
    assert nominal_shares(SIZES, "sqrt")["b"] == pytest.approx(30 / total)
    assert nominal_shares(SIZES, {"a": 1, "b": 1, "c": 2})["c"] == 0.5


def test_a_mistyped_source_is_named_with_its_neighbour():
    with pytest.raises(ConfigError, match=r"no selected source 'cholek80'.*did you mean 'cholec80'"):
        nominal_shares({"cholec80": 1}, {"cholek80": 1.0})


def test_capped_sources_keep_their_epochs_and_the_surplus_goes_in_proportion():
    shares, notes = limit_repeats(SIZES, nominal_shares(SIZES, "uniform"), max_repeat=2, samples=6000)
    # a: 2 x 100 / 6000, b: 2 x 900 / 6000, c takes the rest
    assert shares == pytest.approx({"a": 200 / 6000, "b": 1800 / 6000, "c": 4000 / 6000})
    assert len(notes) == 2
    assert "c" in notes[0]


def test_a_run_longer_than_all_repeats_is_refused():
    with pytest.raises(ConfigError, match="fill 20000 samples at most"):
        limit_repeats(SIZES, nominal_shares(SIZES, "uniform"), max_repeat=2, samples=30_000)
