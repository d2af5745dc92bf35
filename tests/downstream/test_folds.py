"""No case is ever in training and test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trocar.downstream.folds import make_folds
from trocar.downstream.labels import LabelledFrames
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
