"""Source values against games and designs with known answers."""

import json

import pytest
from statistics_factory import scored

from trocar.errors import TrocarError
from trocar.study.statistics.source_value import Design, source_value

SUBSETS = ("", "a", "b", "c", "ab", "ac", "bc", "abc")


def game(worth):
    """Arms of all subsets of a, b, c with 10 cases of each source, and their value twice (two seeds)."""
    amounts = {f"arm-{s}": dict.fromkeys(s, 10) for s in SUBSETS}
    return scored({f"arm-{s}": [worth(s), worth(s)] for s in SUBSETS}), amounts


def test_shapley_of_a_glove_game_is_its_closed_form():
    # c is the one left glove, a and b are right ones; a pair is worth 1: c 2/3, a and b 1/6.
    crossed, amounts = game(lambda s: float("c" in s and len(s) > 1))
    found = source_value(crossed, Design(amounts, "arm-")).shapley
    assert found.reason is None
    values = {source: value.value for source, value in found.values.items()}
    assert values == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 2 / 3})


def test_shapley_values_add_up_to_what_all_sources_add_to_the_init():
    crossed, amounts = game(lambda s: 0.3 + 0.2 * len(s) ** 0.5 + 0.1 * ("a" in s))
    found = source_value(crossed, Design(amounts, "arm-")).shapley
    gain = crossed["arm-abc"].value - crossed["arm-"].value
    assert sum(value.value for value in found.values.values()) == pytest.approx(gain)


def test_shapley_has_the_error_of_its_weighted_sum_of_arms():
    values = {"init": [0.0, 0.0], "a": [1.0, 3.0], "b": [2.0, 2.0], "ab": [4.0, 4.0]}
    amounts = {"a": {"a": 5}, "b": {"b": 5}, "ab": {"a": 5, "b": 5}}
    found = source_value(scored(values), Design(amounts, "init")).shapley.values["a"]
    assert found.value == pytest.approx((2 - 0) / 2 + (4 - 2) / 2)
    assert found.error == pytest.approx(0.5 * 1.0)


@pytest.mark.parametrize(
    ("amounts", "shared", "reason"),
    [
        ({"a": {"a": 5}, "b": {"b": 5}, "ab": {"a": 5, "b": 5}}, [{"a", "b"}], "sources share cases: a and b"),
        ({"a": {"a": 5}, "ab": {"a": 5, "b": 5}}, [], "1 of 4 subsets were not run in these amounts: b"),
        ({"a": {"a": 9}, "b": {"b": 5}, "ab": {"a": 5, "b": 5}}, [], "1 of 4 subsets were not run in these amounts: a"),
        ({"a": {"a": 5}, "b": {"b": 5}}, [], "no arm has all sources"),
        ({"a": {"a": 5}}, [], "fewer than two sources"),
    ],
)
def test_shapley_is_not_identifiable_without_every_subset_of_disjoint_sources(amounts, shared, reason):
    crossed = scored({name: [1.0, 2.0] for name in ("init", *amounts)})
    found = source_value(crossed, Design(amounts, "init", [frozenset(pair) for pair in shared])).shapley
    assert found.values == {}
    assert found.reason == f"not identifiable: {reason}" or found.reason.startswith(f"not identifiable: {reason}")


def test_contrasts_are_the_pairs_of_arms_that_differ_in_one_source():
    amounts = {
        "a": {"a": 10},
        "a-again": {"a": 20, "b": 0},
        "b": {"b": 10},
        "half": {"a": 5, "b": 5},
        "all": {"a": 10, "b": 10},
        "odd": {"a": 3, "b": 4, "c": 3},
    }
    crossed = scored({name: [i, i] for i, name in enumerate(("init", *amounts))})
    found = source_value(crossed, Design(amounts, "init"))
    assert [(c.source, c.arm, c.reference, c.estimate.value) for c in found.single] == [
        ("a", "a", "init", 1),
        ("a", "a-again", "init", 2),
        ("b", "b", "init", 3),
    ]
    assert [(c.source, c.arm, c.reference, c.estimate.value) for c in found.left_out] == [
        ("a", "all", "b", 2),
        ("b", "all", "a", 4),
    ]
    assert [(c.source, c.against, c.amount, c.arm, c.reference) for c in found.swaps] == [
        ("a", "b", 10, "a", "b"),
        ("a", "b", 5, "a", "half"),
        ("a", "b", 10, "a-again", "all"),
        ("b", "a", 5, "b", "half"),
    ]
    assert found.swaps[3].estimate.value == 3 - 4


def test_a_full_rank_regression_recovers_the_value_of_each_source():
    amounts = {"p": {"a": 10}, "q": {"b": 20}, "r": {"a": 10, "b": 10}, "s": {"a": 10, "b": 30}, "t": {"c": 40}}
    doublings = {"p": 0, "q": 1, "r": 1, "s": 2, "t": 2}
    worth = {"a": 0.5, "b": 0.7, "c": 0.2}
    values = {
        arm: sum(worth[s] * n / sum(mix.values()) for s, n in mix.items()) + 0.05 * (doublings[arm] - 1.2)
        for arm, mix in amounts.items()
    }
    crossed = scored({"init": [0.1, 0.1], **{arm: [v, v] for arm, v in values.items()}})
    found = source_value(crossed, Design(amounts, "init")).regression
    assert found.reason is None
    assert {name: value.value for name, value in found.values.items()} == pytest.approx({**worth, "log2 size": 0.05})
    assert (found.arms, found.rank, found.spare) == (5, 4, 1)
    assert found.misfit == pytest.approx(0, abs=1e-12)


def test_a_rank_deficient_design_is_refused_with_the_columns_it_mixes():
    # a and b always come half and half.
    amounts = {"p": {"a": 5, "b": 5}, "q": {"a": 2, "b": 2, "c": 6}, "r": {"c": 10}}
    crossed = scored({name: [1.0, 2.0] for name in ("init", *amounts)})
    found = source_value(crossed, Design(amounts, "init")).regression
    assert found.values == {}
    assert (found.rank, found.columns) == (2, ("a", "b", "c"))
    assert found.reason == ("not identifiable: 3 arms give rank 2, 3 columns need 3; the arms don't tell apart a, b")
    assert json.dumps(found.to_json(), allow_nan=False)


def test_fewer_arms_than_sources_are_refused():
    crossed = scored({name: [1.0, 2.0] for name in ("init", "p")})
    found = source_value(crossed, Design({"p": {"a": 5, "b": 5}}, "init")).regression
    assert found.reason is not None
    assert "rank 1, 2 columns need 2" in found.reason


def test_a_design_that_scores_do_not_match_is_refused():
    with pytest.raises(TrocarError, match="was not scored"):
        source_value(scored({"init": [1.0]}), Design({"p": {"a": 5}}, "init"))
    with pytest.raises(TrocarError, match="is the init"):
        Design({"p": {"a": 5}}, "p")
    with pytest.raises(TrocarError, match="negative amount"):
        Design({"p": {"a": -5}}, "init")
