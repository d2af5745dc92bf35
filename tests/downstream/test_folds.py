"""No case is ever in training and test; a label budget is a number of training cases, and each draw is another set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trocar.downstream.folds import Fold, make_folds, most_draws, restrict
from trocar.downstream.labels import LabelledFrames, LabelSpace
from trocar.errors import ConfigError


def table(cases: int, split: dict[int, str] | None = None) -> LabelledFrames:
    generator = np.random.default_rng(cases)
    case = np.repeat(np.arange(cases), generator.integers(1, 9, cases))
    frames = pd.DataFrame({"case": [f"c{c:02d}" for c in case], "split": [(split or {}).get(c, "") for c in case]})
    return LabelledFrames(Path("data"), "folder", frames, ())


@pytest.mark.parametrize("cases", [2, 5, 12, 13, 40])
@pytest.mark.parametrize("scheme", ["auto", "leave-one-case-out", "2"])
def test_cases_are_disjoint_and_every_frame_is_tested_once(cases: int, scheme: str) -> None:
    data = table(cases)
    rows = np.arange(len(data))
    _, folds = make_folds(data, scheme, rows)
    names = data.frames["case"].to_numpy()
    for fold in folds:
        assert not set(names[fold.train]) & set(names[fold.test])
        assert sorted([*fold.train, *fold.test]) == rows.tolist()
    assert sorted(np.concatenate([fold.test for fold in folds])) == rows.tolist()


def test_auto_prefers_the_split_then_leaves_cases_out_then_makes_five_folds() -> None:
    split = table(4, {0: "train", 1: "train", 2: "val", 3: "test"})
    found = {name: make_folds(data, "auto", np.arange(len(data))) for name, data in
             (("split", split), ("few", table(12)), ("many", table(13)))}  # fmt: skip
    assert {name: (scheme, len(folds)) for name, (scheme, folds) in found.items()} == {
        "split": ("train -> test", 1),
        "few": ("leave-one-case-out", 12),
        "many": ("5 folds by case", 5),
    }


@pytest.mark.parametrize(
    ("validation", "train", "val"),
    [
        ("auto", {"c00", "c01"}, {"c02"}),
        ("official", {"c00", "c01"}, {"c02"}),
        ("within_budget", {"c00", "c01"}, set()),
        ("carve_out", {"c00"}, {"c01"}),
    ],
)
def test_where_validation_cases_come_from(validation: str, train: set[str], val: set[str]) -> None:
    data = table(4, {0: "train", 1: "train", 2: "val", 3: "test"})
    _, (fold,) = make_folds(data, "split", np.arange(len(data)), validation)
    names = data.frames["case"].to_numpy()
    assert [set(names[rows]) for rows in (fold.train, fold.val, fold.test)] == [train, val, {"c03"}]


def test_official_validation_is_refused_where_there_is_none() -> None:
    data = table(4)
    with pytest.raises(ConfigError, match="has no validation cases; use val=within_budget"):
        make_folds(data, "2", np.arange(len(data)), "official")
    with pytest.raises(ConfigError, match="did you mean 'official'"):
        make_folds(data, "2", np.arange(len(data)), "oficial")


@pytest.mark.parametrize(
    ("cases", "scheme", "message"),
    [
        (4, "split", "no labelled frames in both splits"),
        (1, "auto", "single labelled case"),
        (3, "4", "4 folds of 3 labelled cases"),
        (3, "leave-one-out", "did you mean 'leave-one-case-out'"),
    ],
)
def test_a_division_that_is_impossible_is_refused(cases: int, scheme: str, message: str) -> None:
    data = table(cases)
    with pytest.raises(ConfigError, match=message):
        make_folds(data, scheme, np.arange(len(data)))


SPACE = LabelSpace("phase", "multiclass", ("a", "b", "c"))
LISTS = {"25_percent": (("c00", "c03"), ("c01", "c04"))}


def labelled(phases: list[list[int]]) -> tuple[LabelledFrames, Fold]:
    """A case per list of phases; the last two cases validate and test."""
    case = np.repeat(np.arange(len(phases)), [len(p) for p in phases])
    frames = pd.DataFrame({"case": [f"c{c:02d}" for c in case], "phase": np.concatenate(phases)})
    data = LabelledFrames(Path("data"), "folder", frames, (SPACE,), budgets=LISTS)
    rows = np.arange(len(frames))
    sides = [rows[case < len(phases) - 2], rows[case == len(phases) - 2], rows[case == len(phases) - 1]]
    return data, Fold("test", *sides)


def cases(data: LabelledFrames, fold: Fold) -> list[str]:
    return sorted(set(data.frames["case"].to_numpy()[fold.train]))


def test_no_budget_takes_all() -> None:
    data, fold = labelled([[0, 1, 2]] * 8)
    assert restrict(data, SPACE, fold, None, 0) is fold


@pytest.mark.parametrize(("budget", "count"), [(1, 1), ("3", 3), ("25%", 2), ("50%", 3), ("1%", 1), ("100%", 6)])
def test_a_share_is_of_the_training_cases_and_rounds_up(budget: str | int, count: int) -> None:
    data, fold = labelled([[0, 1, 2]] * 8)
    assert len(cases(data, restrict(data, SPACE, fold, budget, 0))) == count


def test_whole_cases_are_taken_and_validation_and_test_are_as_before() -> None:
    data, fold = labelled([[0] * n for n in (1, 5, 2, 7, 3, 4, 2, 2)])
    found = restrict(data, SPACE, fold, 3, 0)
    assert found.train.tolist() == np.flatnonzero(data.frames["case"].isin(cases(data, found))).tolist()
    assert found.val is fold.val
    assert found.test is fold.test


def test_draws_differ_and_a_draw_repeats() -> None:
    data, fold = labelled([[0, 1, 2]] * 14)
    draws = [tuple(cases(data, restrict(data, SPACE, fold, 4, draw))) for draw in range(6)]
    assert len(set(draws)) == 6
    assert draws[3] == tuple(cases(data, restrict(data, SPACE, fold, 4, 3)))


def test_a_rare_class_is_not_lacking_where_it_can_be_had() -> None:
    # Phase 2 is in one of ten cases: a draw that only shuffled would lack it four times of five.
    data, fold = labelled([[0, 1]] * 9 + [[0, 1, 2], [0], [0]])
    # Nine of the 45 sets have it, and no set is drawn twice.
    assert all("c09" in cases(data, restrict(data, SPACE, fold, 2, draw)) for draw in range(4))


def test_class_shares_are_those_of_the_whole_as_far_as_possible() -> None:
    data, fold = labelled([[0] * 9 + [1], [0] + [1] * 9] * 3 + [[0], [0]])
    for draw in range(5):
        chosen = cases(data, restrict(data, SPACE, fold, 2, draw))
        assert {int(name[1:]) % 2 for name in chosen} == {0, 1}


def test_several_labels_a_frame_and_masks_can_be_drawn_too() -> None:
    data, fold = labelled([[0, 1]] * 8)
    tools = LabelSpace("tools", "multilabel", ("x", "y"))
    frames = data.frames.assign(
        **{"tools/x": 1, "tools/y": (data.frames["case"] == "c02").astype(int), "mask": "m.png"}
    )
    many = replace(data, frames=frames)
    assert all("c02" in cases(many, restrict(many, tools, fold, 2, draw)) for draw in range(2))
    assert len(cases(many, restrict(many, LabelSpace("s", "mask", ("x",)), fold, 2, 0))) == 2


def test_a_published_list_is_taken_as_it_is() -> None:
    data, fold = labelled([[0, 1, 2]] * 8)
    assert cases(data, restrict(data, SPACE, fold, "25_percent", 1)) == ["c01", "c04"]
    assert [most_draws(data, budget, 5) for budget in (None, "25_percent", "25%")] == [1, 2, 5]


def test_a_published_case_that_does_not_train_here_is_named() -> None:
    data, fold = labelled([[0, 1, 2]] * 5)
    with pytest.raises(ConfigError, match=r"25_percent, draw 0: case 'c03' is not among the training cases"):
        restrict(data, SPACE, fold, "25_percent", 0)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("25_percnt", "did you mean '25_percent'"),
        ("some", "expected a number of cases, a share such as 25% or one of 25_percent"),
        (0, "budget = 0: expected 1 to 6 training cases"),
        (7, "budget = 7: expected 1 to 6 training cases"),
        ("2.5", "budget = 2.5: expected 1 to 6 training cases"),
        ("0%", "budget = 0%: expected 1 to 6 training cases"),
        ("101%", "budget = 101%: expected 1 to 6 training cases"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(budget: str | int, message: str) -> None:
    data, fold = labelled([[0, 1, 2]] * 8)
    with pytest.raises(ConfigError) as found:
        restrict(data, SPACE, fold, budget, 0)
    assert message in str(found.value)


def test_draws_differ_where_there_are_few_cases_and_more_than_there_are_sets_is_refused() -> None:
    data, fold = labelled([[0, 1, 2]] * 6)
    draws = {tuple(cases(data, restrict(data, SPACE, fold, 2, draw))) for draw in range(6)}
    assert len(draws) == 6
    with pytest.raises(ConfigError, match="only 6 different sets of 2 of 4 training cases"):
        restrict(data, SPACE, fold, 2, 6)
