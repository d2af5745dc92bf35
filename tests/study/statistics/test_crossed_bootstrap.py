"""Crossed intervals on linear models with known answers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statistics_factory import arm, case_mean, known, outcome

from trocar.downstream.metrics.multilabel import map_pooled
from trocar.downstream.metrics.outcome import Outcome
from trocar.errors import TrocarError
from trocar.study.statistics.crossed import (
    CASES_ONLY,
    SEEDS_AND_CASES,
    Crossed,
    crossed,
    estimate,
    guarded,
    satterthwaite,
)
from trocar.study.statistics.resample import Arm, combine, draw_cases, resample

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import coverage as benchmark


def test_the_error_is_that_of_a_two_way_layout():
    table = np.random.default_rng(0).normal(size=(4, 12))
    found = crossed([arm("a", table)], case_mean, draws=20_000).arm("a")
    seeds = table.mean(1).var(ddof=1) / 4
    cases = table.mean(0).var(ddof=1) / 12
    assert found.value == pytest.approx(table.mean())
    assert found.error == pytest.approx(np.sqrt(seeds + cases), rel=0.01)
    held = (1 + 6 / 3**2) * seeds
    assert found.degrees == pytest.approx((held + cases) ** 2 / (held**2 / 3 + cases**2 / 11), rel=0.02)
    half = stats.t.ppf(0.975, found.degrees) * found.error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_the_variance_is_that_of_two_way_random_effects_with_the_interaction_twice():
    generator = np.random.default_rng(1)
    weights = draw_cases(10, 300)
    found = []
    for _ in range(1500):
        table = 2 * generator.normal(size=(4, 1)) + 3 * generator.normal(size=10) + generator.normal(size=(4, 10))
        found.append(estimate("", [(1.0, benchmark.linear("", table, weights))]).error ** 2)
    assert np.mean(found) == pytest.approx(4 / 4 + 9 / 10 + 2 * 1 / 40, rel=0.05)


def test_a_difference_is_paired_over_cases():
    generator = np.random.default_rng(2)
    hard, a, b = 10 * generator.normal(size=30), generator.normal(size=(3, 30)), generator.normal(size=(3, 30))
    found = crossed([arm("a", a + hard), arm("b", b + hard)], case_mean, draws=4000)
    alone = crossed([arm("a", a), arm("b", b)], case_mean, draws=4000)
    assert found.difference("a", "b").value == pytest.approx(a.mean() - b.mean())
    assert found.difference("a", "b").error == pytest.approx(alone.difference("a", "b").error)
    assert found.arm("a").error > 5 * found.difference("a", "b").error


def test_all_arms_and_seeds_see_the_same_draws():
    found = crossed([arm("a", [np.arange(9.0)] * 2), arm("b", [np.arange(9.0)] * 3)], case_mean, draws=50)
    assert np.array_equal(found["a"].drawn[0], found["a"].drawn[1])
    assert np.array_equal(found["a"].drawn[0], found["b"].drawn[2])
    assert found.difference("a", "b").error == pytest.approx(0, abs=1e-12)
    assert found.difference("a", "b").p == 1


def test_a_pooled_metric_is_recomputed_on_every_draw():
    generator = np.random.default_rng(3)
    case = np.repeat(np.arange(4), [5, 9, 7, 30])
    gt = generator.integers(0, 2, (len(case), 2))
    run = Outcome(gt, gt, gt + generator.normal(size=gt.shape), case)
    weights = draw_cases(4, 6)
    found = resample(Arm("a", ((run,),)), map_pooled, weights)
    for drawn, counts in zip(found.drawn[0], weights, strict=True):
        rows = np.repeat(np.arange(len(case)), counts[case].astype(int))
        assert drawn == pytest.approx(map_pooled(Outcome(gt[rows], gt[rows], run.scores[rows], case[rows])))


def test_runs_of_a_seed_are_averaged_and_are_no_seeds():
    runs = [outcome(np.full(8, value)) for value in (1.0, 3.0, 10.0)]
    found = resample(Arm("a", ((runs[0], runs[1]), (runs[2],))), case_mean, draw_cases(8, 5))
    assert found.values.tolist() == [2.0, 10.0]
    assert found.seed_variance == pytest.approx(16.0)


def test_one_seed_is_over_test_cases_only():
    table = np.random.default_rng(4).normal(size=(3, 12))
    found = crossed([arm("one", table[:1]), arm("three", table), arm("given", table[:1], fixed=True)], case_mean)
    assert found.arm("one").scope == CASES_ONLY
    assert found.difference("one", "three").scope == CASES_ONLY
    assert found.arm("three").scope == SEEDS_AND_CASES
    assert found.difference("three", "given").scope == SEEDS_AND_CASES
    assert found.arm("given").scope == CASES_ONLY
    assert found.arm("one").degrees == pytest.approx(11)


def test_intervals_that_do_not_reach_their_level_say_so():
    def too_narrow(cases, *weights):
        return estimate("", [(weight, known("a", [1, 2], 1.0, cases=cases)) for weight in weights]).too_narrow

    assert [too_narrow(cases, 1.0) for cases in (7, 13, 14, 40)] == [True, True, False, False]
    assert [too_narrow(cases, 1.0, -1.0) for cases in (6, 7, 40)] == [True, False, False]


def test_two_cases_have_no_interval_and_nan_is_none_in_json():
    found = crossed([arm("a", [[0.1, 0.5]] * 2)], case_mean).arm("a")
    assert np.isnan([found.low, found.high, found.error, found.p]).all()
    assert found.too_narrow
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["value"] == pytest.approx(0.3)
    assert written["low"] is None
    assert written["name"] == "a"


def test_draws_without_a_value_are_left_out_and_counted():
    def first_case_only(scored, weights=None):
        return float("nan") if weights is not None and weights[0] == 0 else case_mean(scored, weights)

    found = crossed([arm("a", [np.arange(10.0)] * 3)], first_case_only, draws=2000).arm("a")
    assert found.undefined == pytest.approx(0.9**10, abs=0.03)
    assert found.error > 0


def test_an_interval_is_cut_to_the_range_of_the_metric():
    found = crossed([arm("a", [[1, 1, 1, 1, 1, 1, 1, 0.5]] * 3)], case_mean).arm("a", bounds=(0, 1))
    assert found.high == 1
    assert 0 < found.low < found.value


def test_seeds_of_combined_metrics_stay_one_pretraining():
    found = combine("c", [(0.5, known("a", [1.0, 3.0])), (0.5, known("b", [3.0, 1.0]))])
    assert found.values.tolist() == [2.0, 2.0]
    assert found.seed_variance == 0


def test_joint_draws_have_the_errors_of_the_arms_and_the_same_luck_on_every_task():
    arms = {"a": known("a", [0.0, 2.0, 4.0], 1.0, 20_000, 200), "b": known("b", [1.0, 3.0, 5.0], 1.0, 20_000, 200)}
    joint = Crossed(arms).joint()
    # Variance of t with 4 degrees of freedom is twice the seed variance 4 / 3; that of the cases is 1.
    assert np.var(joint["a"] - joint["b"]) == pytest.approx(2 * 2 * 4 / 3, rel=0.15)
    assert np.corrcoef(joint["a"], joint["b"])[0, 1] == pytest.approx(1 / (1 + 2 * 4 / 3), abs=0.06)
    other = Crossed({"a": known("a", [0.0, 2.0, 4.0], 0.0, 20_000, 200)}).joint()
    assert stats.spearmanr(other["a"], joint["a"])[0] > 0.7


def test_satterthwaite_of_equal_parts_adds_their_degrees():
    assert satterthwaite([(2.0, 3), (2.0, 3)]) == 6
    assert satterthwaite([(2.0, 3), (0.0, 9)]) == 3


def test_few_seeds_count_for_more_than_their_scatter_in_the_degrees_of_freedom():
    # Two seeds: d = 1, so that their 2 counts as 14 beside the 10 of 19 degrees.
    assert guarded([(2.0, 1)], (10.0, 19)) == (pytest.approx(np.sqrt(12)), pytest.approx(576 / (196 + 100 / 19)))
    assert guarded([(2.0, 1)], (10.0, 19), guard=0)[1] == pytest.approx(144 / (4 + 100 / 19))
    assert guarded([], (4.0, 19)) == (2.0, 19)
    assert guarded([(0.0, 1)], (4.0, 19)) == (2.0, 19)


def test_arms_on_other_cases_unknown_and_doubled_names_are_refused():
    with pytest.raises(TrocarError, match="score all arms on the same cases"):
        crossed([arm("a", np.ones((2, 8))), arm("b", np.ones((2, 9)))], case_mean)
    with pytest.raises(TrocarError, match="names of their own"):
        crossed([arm("a", np.ones((2, 8))), arm("a", np.ones((2, 8)))], case_mean)
    with pytest.raises(TrocarError, match="did you mean 'init'"):
        crossed([arm("init", np.ones((2, 8)))], case_mean).arm("inti")
    with pytest.raises(TrocarError, match="two different arms"):
        crossed([arm("a", np.ones((2, 8)))], case_mean).difference("a", "a")
    with pytest.raises(TrocarError, match="seed without a run"):
        Arm("a", ((),))


@pytest.mark.slow
@pytest.mark.parametrize("arms", [1, 2])
def test_coverage_of_the_chosen_interval_reaches_its_bar_where_nested_does_not(arms):
    for share in (0.1, 0.8):
        found = benchmark.coverage(benchmark.Scenario(arms, share, False), 7, 3, 600, 200)
        assert found["guarded"][0] >= 0.92
        assert found["nested"][0] < 0.88
        assert found["nested"][0] < found["inflated"][0] < found["guarded"][0]


@pytest.mark.slow
def test_coverage_of_the_joint_draws_reaches_its_bar():
    generator, weights = np.random.default_rng(6), draw_cases(7, 300)
    for share in (0.1, 0.8):
        found = []
        for i in range(400):
            tables = benchmark.scores(benchmark.Scenario(2, share, False), 7, 3, generator)
            arms = {name: benchmark.linear(name, table, weights) for name, table in zip("ab", tables, strict=True)}
            joint = Crossed(arms).joint(i)
            low, high = np.percentile(joint["a"] - joint["b"], [2.5, 97.5])
            found.append(low <= 0 <= high)
        assert np.mean(found) >= 0.92
