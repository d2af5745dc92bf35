from dataclasses import replace

import numpy as np
import pytest
from planted_study import Planted, plant
from statistics_factory import known, scored

from trocar.leakage.verdict import Verdict
from trocar.report.page import render_template
from trocar.report.shown_frames import KnownCases
from trocar.report.study_analysis import analyse, bounds_of
from trocar.report.study_arms import arms_of, cells, design_of, labelled_cases
from trocar.report.study_report import page_of, summary
from trocar.study.results import StudyResults
from trocar.study.statistics.crossed import CASES_ONLY, SEEDS_AND_CASES, Crossed, rank_over_tasks
from trocar.study.statistics.scaling import Scale, scaling

CASES = tuple(f"case{number:02d}" for number in range(12))


def found(root, planted, draws=80):
    study, store = plant(root, planted)
    results = StudyResults.load(study, store)
    return results, analyse(results, KnownCases.of([study.catalog]), draws)


def section(name, results, analysis, known=None):
    """One section of the page."""
    page = page_of(results, analysis, known or KnownCases.of_study(results), ())
    return render_template(f"study_{name}.html.j2", page)


def sentences(root, planted, verdicts=None):
    results, analysis = found(root, planted)
    return summary(results, analysis, verdicts if verdicts is not None else {("phase", "north"): Verdict.CLEAN})


def test_a_planted_difference_is_found_and_its_copy_is_not_called_different(tmp_path):
    planted = Planted(
        {"north": 0.8, "north again": 0.8}, luck=0.025, contrasts=[("north", "init"), ("north", "north again")]
    )
    results, analysis = found(tmp_path, planted)
    real, copy = analysis.contrasts
    assert real.different
    assert real.difference.value == pytest.approx(0.3)
    assert copy.result == "not shown to differ"
    said = summary(results, analysis, {})
    assert len(said) == 3
    assert said[1].startswith("Of 2 declared comparisons, 1 differs after Holm's correction (north scores 0.300 [")
    assert said[1].endswith("higher than init on phase (knn)); 1 is not shown to differ.")


def test_the_summary_never_turns_a_negative_difference_around(tmp_path):
    said = sentences(tmp_path, Planted({"north": 0.3}, given={"init": 0.8}, luck=0.025))
    assert "init scores 0.500 [" in said[1]
    assert "higher than north" in said[1]


def test_too_few_cases_are_underpowered_and_not_a_finding(tmp_path):
    results, analysis = found(tmp_path, Planted({"north": 0.9}, given={"init": 0.2}, test_cases=CASES[:4]))
    assert analysis.contrasts[0].result == "underpowered, n = 4"
    said = summary(results, analysis, {})
    assert said[1] == ("Of 1 declared comparison, 1 is underpowered (n = 4), which says nothing either way.")
    assert "as few as 4 test cases" in said[2]
    assert "differs" not in " ".join(said)


def test_equal_arms_are_not_called_equal(tmp_path):
    said = sentences(tmp_path, Planted({"north": 0.5}, luck=0.025))
    assert said[1] == "None of 1 declared comparison is shown to differ."


def test_one_pretraining_seed_is_said_in_numbers_and_words(tmp_path):
    results, analysis = found(tmp_path, Planted({"north": 0.8}, seeds=1))
    assert {arm.scope for arm in analysis.compared[0].arms} == {CASES_ONLY}
    said = summary(results, analysis, {})
    assert "with one pretraining seed intervals are over test cases only" in said[2]
    assert "higher than init on phase (knn) for these trained models" in said[1]


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({("phase", "north"): Verdict.CLEAN}, "By all leak verdicts no arm has seen a test case"),
        (
            {("phase", "north"): Verdict.UNKNOWN, ("phase", "init"): Verdict.CLEAN},
            "1 score is not known to be free of leaks (north on phase: unknown)",
        ),
        (
            {(f"task {n}", "north"): Verdict.SEEN for n in range(5)},
            "5 scores are not known to be free of leaks (north on task 0: test case seen unlabelled; ",
        ),
    ],
)
def test_the_third_sentence_says_what_is_known_of_leaks(tmp_path, verdicts, text):
    assert sentences(tmp_path, Planted({"north": 0.8}, seeds=2), verdicts)[2].startswith(text)


def test_given_weights_without_chance_are_fixed_and_others_have_seeds(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8}, given={"init": 0.5, "random": 0.4, "other": 0.6}))
    results = StudyResults.load(study, store)
    arms = {arm.name: arm for arm in arms_of(results, cells(results)[("phase", "knn")]["100%"])}
    assert {name: (len(arm.seeds), arm.fixed) for name, arm in arms.items()} == {
        "north": (3, False), "init": (3, False), "random": (3, False), "other": (1, True)
    }  # fmt: skip


def test_given_weights_under_a_protocol_with_chance_are_not_fixed(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8}, given={"init": 0.5, "other": 0.6}, tasks=("masks",)))
    results = StudyResults.load(study, store)
    ((_, budgets),) = cells(results).items()
    arms = {arm.name: arm for arm in arms_of(results, budgets["100%"])}
    assert not arms["other"].fixed


def test_budgets_rise_and_the_largest_is_compared(tmp_path):
    planted = Planted({"north": 0.8}, seeds=2, budgets={"100%": 8, "2": 2})
    results, analysis = found(tmp_path, planted)
    one = analysis.compared[0]
    assert (one.budget, one.labelled) == ("100%", 8)
    assert labelled_cases(results, one.scores) == 8
    assert {curve.arm: curve.labelled for curve in one.curves} == {"north": (2, 8), "init": (2, 8)}
    assert one.curves[0].points[0].value == pytest.approx(0.8)


def test_masks_are_compared_by_their_metric(tmp_path):
    _, analysis = found(tmp_path, Planted({"north": 0.75}, seeds=2, tasks=("masks",)))
    one = analysis.compared[0]
    # 9 of 12 rows of the tool's 144 pixels; all else of 32 x 42 is background.
    background = (32 * 42 - 144) / (32 * 42 - 144 + 36)
    assert one.crossed["north"].value == pytest.approx((background + 0.75) / 2)
    assert one.arms[0].name == "north"


def test_sizes_of_one_mixture_are_a_power_law_if_there_are_enough(tmp_path):
    sizes = (1, 2, 4, 8, 12)
    score = {n: 0.9 - 0.4 / n for n in sizes}
    planted = Planted(
        {f"n{n}": score[n] for n in sizes},
        seeds=2,
        luck=0.001,
        cases_of={f"n{n}": [[f"phantom/case{2 * i:02d}" for i in range(n)]] * 2 for n in sizes},
    )
    _, analysis = found(tmp_path, planted)
    one = analysis.compared[0]
    (scales,) = one.scales
    assert scales.sizes == sizes
    assert [point.name for point in scales.points] == [f"n{n}" for n in sizes]
    assert scales.law is not None
    assert scales.law.limit[0] == pytest.approx(0.9, abs=0.01)
    assert scales.law.exponent[0] == pytest.approx(1.0, abs=0.1)
    assert not isinstance(one.value, str)
    assert {contrast.source for contrast in one.value.single} == {"north"}


def test_shapley_values_need_all_subsets(tmp_path):
    north, south = ["phantom/case00", "phantom/case02"], ["phantom/case01", "phantom/case03"]
    planted = Planted(
        {"a": 0.6, "b": 0.7, "both": 0.9},
        seeds=2,
        luck=0.001,
        cases_of={"a": [north] * 2, "b": [south] * 2, "both": [north + south] * 2},
    )
    _, analysis = found(tmp_path, planted)
    values = analysis.compared[0].value.shapley.values
    assert values["north"].value + values["south"].value == pytest.approx(0.9 - 0.5)
    # north: the mean of .6 - .5 and .9 - .7.
    assert values["north"].value == pytest.approx(0.15)


def test_arms_of_different_inits_value_no_source(tmp_path):
    study, store = plant(tmp_path, Planted({"north": 0.8, "south": 0.7}, seeds=2))
    results = StudyResults.load(study, store)
    results.lock.init_of["south"] = "init south"
    analysis = analyse(results, KnownCases.of([study.catalog]), 20)
    assert analysis.compared[0].value == "not identifiable: the arms began from different weights"


def test_ranks_are_over_cells_that_all_arms_have(tmp_path):
    _, analysis = found(tmp_path, Planted({"north": 0.8}, seeds=2, tasks=("phase", "masks")))
    assert analysis.ranking is not None
    assert analysis.ranking.scope == SEEDS_AND_CASES
    assert [(rank.arm, rank.mean) for rank in analysis.ranking.ranks] == [("north", 1.0), ("init", 2.0)]


def test_scores_without_a_known_range_are_not_cut():
    assert bounds_of("accuracy@pooled") == (0.0, 1.0)
    assert bounds_of("edit@ms_tcn") == (-np.inf, np.inf)


def test_what_a_task_compares_is_what_its_own_pretrainings_saw(tmp_path):
    planted = Planted({"north": 0.8, "south": 0.6}, tasks=("phase", "masks"), seeds=2, leave_out="task")
    study, store = plant(tmp_path, planted)
    results = StudyResults.load(study, store)
    known = KnownCases.of([study.catalog])
    # case 16 or 17 by the seed, and case 10 for phase, 11 for masks; even cases are of the north
    seen = {t: design_of(results, known, {"north", "south", "init"}, t).amounts["north"] for t in ("phase", "masks")}
    assert seen == {"phase": {"north": 1.5, "south": 0.5}, "masks": {"north": 0.5, "south": 1.5}}
    page = section("arms", results, analyse(results, known, 20), known)
    assert page.count("<small>for phase</small>") == page.count("<small>for masks</small>") == 2
    assert page.count("2 of 2") == 4


@pytest.mark.parametrize("narrow", [True, False])
def test_ranks_and_curves_of_few_cases_are_said_to_be_too_narrow(narrow, tmp_path):
    results, analysis = found(tmp_path, Planted({"north": 0.8}), draws=20)
    heights = {f"n{size}": [0.9 - size**-0.5, 0.902 - size**-0.5] for size in (10, 20, 40, 80, 160)}
    nested = [Scale(name, (frozenset(range(int(name[1:]))),) * 2, {"a": float(name[1:])}) for name in heights]
    curve = scaling(scored(heights), nested)
    assert curve.law is not None
    one = replace(analysis.compared[0], scales=(replace(curve, law=replace(curve.law, too_narrow=narrow)),))
    ranking = replace(rank_over_tasks({"phase": scored(heights)}), too_narrow=narrow)
    analysis = replace(analysis, compared=(one,), ranking=ranking)
    assert ("Too narrow:" in section("ranks", results, analysis)) == narrow
    assert ("Too narrow:" in section("scaling", results, analysis)) == narrow


def test_the_note_on_tests_says_how_the_cases_were_permuted(tmp_path):
    few = Planted({"north": 0.8, "south": 0.7}, contrasts=[("north", "south")], test_cases=[f"c{n}" for n in range(7)])
    results, analysis = found(tmp_path, few, draws=20)
    (one,) = analysis.contrasts
    sample = replace(one, exact=False)
    for contrasts, text in [
        ((one,), "p cases: exact permutation of the test cases, for"),
        ((one, sample), "a random sample of their swaps (up to 7 cases all of them, which is exact)"),
        ((sample,), "p cases: permutation of the test cases, a random sample of their swaps, for"),
    ]:
        assert text in section("comparisons", results, replace(analysis, contrasts=contrasts))


def test_no_share_of_draws_is_given_for_a_task_of_one_case(tmp_path):
    heights = {name: known(name, [0.5, 0.7], cases=1) for name in "ab"}
    results, analysis = found(tmp_path, Planted({"north": 0.8}, seeds=1), draws=20)
    page = section("ranks", results, replace(analysis, ranking=rank_over_tasks({"phase": Crossed(heights)})))
    assert "“Best in” is left open: a task has fewer than 3 test cases" in page
    assert "%</td>" not in page


def test_held_out_cases_of_one_kind_are_one_row_with_their_names_folded_away(tmp_path):
    kept_out = [
        {"pool": f"bkai/{n}", "test": f"bkai/{n}", "tasks": ["phase"], "verdict": "seen"}
        | {"how": "the same case", "became": "left out"}
        for n in range(60)
    ]
    page = section("arms", *found(tmp_path, Planted({"north": 0.8}, kept_out=kept_out), draws=20))
    assert page.count("60 cases of bkai</td>") == 2
    assert page.count("the same case") == 1
    (listed,) = [part for part in page.split("<details>") if "These 60 pairs" in part]
    assert listed.count("bkai/59: bkai/59") == 1
