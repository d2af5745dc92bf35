"""Tests of declared contrasts."""

import json
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statistics_factory import arm, case_mean, outcome
from statsmodels.stats.multitest import multipletests

from trocar.downstream.metrics.multilabel import map_pooled
from trocar.downstream.metrics.outcome import Outcome
from trocar.errors import ConfigError, TrocarError
from trocar.study.statistics.contrasts import (
    ScoredTask,
    beside,
    corrected_level,
    couple,
    declared_contrasts,
    holm,
    smallest_p,
    swap_test,
)
from trocar.study.statistics.crossed import CASES_ONLY, crossed
from trocar.study.statistics.resample import Arm


def scored(task, *arms):
    return ScoredTask(task, crossed(arms, case_mean, draws=100), arms, case_mean)


def literal_holm(p):
    """Holm 1979: the k-th smallest of m times m - k + 1, never below the one before."""
    order, found, largest = np.argsort(p), np.empty(len(p)), 0.0
    for k, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - k) * p[index]))
        found[index] = largest
    return found


def test_holm_is_that_of_statsmodels_and_of_its_definition():
    p = [0.04, 0.001, 0.03, 0.2, 0.011, 0.9]
    assert holm(p) == pytest.approx(literal_holm(p))
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_a_contrast_without_p_counts_in_the_correction():
    corrected = holm([0.01, float("nan"), 0.02])
    assert corrected[0] == pytest.approx(0.03)
    assert np.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)


def test_p_over_cases_is_that_of_all_sign_flips():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.6, 1, (2, 8)), generator.normal(size=(2, 8))
    gap = a.mean(0) - b.mean(0)
    flipped = np.array([np.mean(gap * signs) for signs in product((1, -1), repeat=8)])
    expected = min(1, 2 * min(np.mean(flipped >= gap.mean() - 1e-12), np.mean(flipped <= gap.mean() + 1e-12)))
    assert swap_test(arm("a", a), arm("b", b), case_mean) == pytest.approx(expected)


def test_the_permutation_recomputes_a_pooled_metric():
    generator = np.random.default_rng(1)
    case = np.repeat(np.arange(5), [2, 8, 3, 9, 4])
    gt = generator.integers(0, 2, (len(case), 1))
    x, y = (Outcome(gt, gt, gt * skill + generator.normal(size=gt.shape), case) for skill in (2, 0.5))
    observed, gaps = map_pooled(x) - map_pooled(y), []
    for swaps in product((False, True), repeat=5):
        swapped = np.array(swaps)[case][:, None]
        first, second = np.where(swapped, y.scores, x.scores), np.where(swapped, x.scores, y.scores)
        gaps.append(map_pooled(Outcome(gt, gt, first, case)) - map_pooled(Outcome(gt, gt, second, case)))
    tail = min(np.mean(np.array(gaps) >= observed - 1e-12), np.mean(np.array(gaps) <= observed + 1e-12))
    assert swap_test(Arm("x", ((x,),)), Arm("y", ((y,),)), map_pooled) == pytest.approx(min(1, 2 * tail))


def test_arms_with_different_seeds_and_runs_are_coupled_to_their_means():
    a = Arm("a", tuple((outcome([value] * 4),) for value in (1.0, 2.0, 6.0)))
    b = Arm("b", ((outcome([10.0] * 4), outcome([20.0] * 4)), (outcome([40.0] * 4),)))
    pairs = couple(a, b)
    assert sum(weight for weight, _, _ in pairs) == pytest.approx(1)
    assert sum(weight * case_mean(x) for weight, x, _ in pairs) == pytest.approx(3)
    assert sum(weight * case_mean(y) for weight, _, y in pairs) == pytest.approx(27.5)


def test_seven_cases_are_underpowered_for_four_contrasts_and_not_for_three():
    generator = np.random.default_rng(2)
    base = generator.normal(size=7)
    arms = [arm(name, base + shift + 0.01 * generator.normal(size=(3, 7))) for shift, name in enumerate("abcde")]
    pairs = [("b", "a"), ("c", "a"), ("d", "a"), ("e", "a")]
    four = declared_contrasts([scored("phase", *arms)], pairs)
    assert [contrast.underpowered for contrast in four] == ["underpowered, n = 7"] * 4
    assert not any(contrast.different for contrast in four)
    assert np.isnan([contrast.p_holm for contrast in four]).all()
    assert json.loads(json.dumps(four[0].to_json(), allow_nan=False))["p"] is None
    three = declared_contrasts([scored("phase", *arms)], pairs[:3])
    assert [contrast.underpowered for contrast in three] == [None] * 3
    assert [contrast.p for contrast in three] == pytest.approx([2 / 2**7] * 3)
    assert [contrast.p_holm for contrast in three] == pytest.approx([6 / 2**7] * 3)
    assert all(contrast.different for contrast in three)


def test_a_task_with_more_cases_leaves_more_of_the_level_to_the_one_with_few():
    few, many = smallest_p(7), smallest_p(12)
    assert (few, many) == (2 / 128, 2 / 4096)
    assert corrected_level(few, [few, few, many, many], 0.05) == 0.025
    assert corrected_level(many, [few, few, many, many], 0.05) == 0.0125
    assert smallest_p(40, 4096) == 2 / 4097


def test_luck_of_seeds_alone_is_no_difference():
    # Every case agrees that the seeds of a were luckier, and the seeds say how far luck goes.
    a, b = np.full((2, 12), [[1.0], [-0.6]]), np.full((2, 12), [[0.5], [-0.7]])
    noise = 0.01 * np.random.default_rng(3).normal(size=12)
    contrast = declared_contrasts([scored("phase", arm("a", a + noise), arm("b", b))], [("a", "b")])[0]
    assert contrast.p_cases == pytest.approx(2 / 4096)
    assert contrast.p_seeds > 0.5
    assert contrast.p == contrast.p_holm == contrast.p_seeds
    assert not contrast.different


def test_with_one_seed_the_test_is_over_cases_and_the_scope_says_so():
    noise = np.random.default_rng(4).normal(size=(1, 10))
    contrast = declared_contrasts([scored("phase", arm("a", noise + 1), arm("b", noise))], [("a", "b")])[0]
    assert contrast.difference.scope == CASES_ONLY
    assert np.isnan(contrast.p_seeds)
    assert contrast.p == contrast.p_cases == pytest.approx(2 / 1024)


def test_only_declared_contrasts_are_tested_and_wrong_ones_refused():
    task = scored("phase", *(arm(name, np.eye(9)[:3]) for name in ("init", "a", "b")))
    assert [(c.a, c.b) for c in declared_contrasts([task], [("a", "init")])] == [("a", "init")]
    assert declared_contrasts([task], []) == []
    for pairs, words in [
        ([("a", "inti")], "did you mean 'init'"),
        ([("a", "a")], "compared with itself"),
        ([("a", "b"), ("b", "a")], "compared twice"),
    ]:
        with pytest.raises(ConfigError, match=words):
            declared_contrasts([task], pairs)
    with pytest.raises(ConfigError, match=r"20 swaps can't reach .* set at least 39"):
        declared_contrasts([task], [("a", "b")], flips=20)


def test_outcomes_side_by_side_keep_every_field_and_need_the_same_frames():
    both = beside(outcome([1.0, 2.0]), outcome([5.0, 7.0]))
    assert both.case.tolist() == [0, 1, 2, 3]
    assert both.scores[:, 0].tolist() == [1.0, 2.0, 5.0, 7.0]
    case = np.array([0, 0, 1])
    with pytest.raises(TrocarError, match="different frames"):
        beside(outcome([1.0, 2.0]), Outcome(case, case, np.zeros((3, 1)), case))


@pytest.mark.slow
def test_equal_arms_are_called_different_at_most_as_often_as_the_level_says():
    generator, found = np.random.default_rng(5), []
    for _ in range(100):
        a, b = (generator.normal(size=(2, 1)) + generator.normal(size=(2, 6)) for _ in range(2))
        contrast = declared_contrasts([scored("phase", arm("a", a), arm("b", b))], [("a", "b")], flips=64)[0]
        found.append((contrast.p_cases <= 0.05, contrast.different))
    alone, both = np.mean(found, axis=0)
    assert alone > 0.15
    assert both <= stats.binom.ppf(0.999, 100, 0.05) / 100


@pytest.mark.parametrize(("cases", "exact"), [(12, True), (13, False), (40, False)])
def test_a_permutation_of_many_cases_is_not_called_exact(cases, exact):
    generator = np.random.default_rng(0)
    a, b = (arm(name, generator.normal(size=(1, cases))) for name in "ab")
    (found,) = declared_contrasts([scored("phase", a, b)], [("a", "b")])
    assert found.exact == exact
