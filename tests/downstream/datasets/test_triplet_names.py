"""The published lists of CholecT45 and CholecT50."""

from __future__ import annotations

import pytest

from trocar.downstream.datasets.triplets import (
    CHOLECT45_SPLITS,
    CHOLECT50_SPLITS,
    ENDOVIT_BUDGETS,
    ENDOVIT_SPLIT,
    TRIPLETS,
)

FIFTY = {video for videos in CHOLECT50_SPLITS["rdv"].values() for video in videos}


def test_there_are_a_hundred_triplets_the_last_six_of_idle_instruments() -> None:
    assert len(set(TRIPLETS)) == 100
    assert (TRIPLETS[0], TRIPLETS[60], TRIPLETS[93]) == (
        "grasper,dissect,cystic_plate",
        "hook,dissect,gallbladder",
        "irrigator,retract,omentum",
    )
    assert all(name.endswith(",null_verb,null_target") for name in TRIPLETS[94:])
    assert [len({name.split(",")[part] for name in TRIPLETS}) for part in range(3)] == [6, 10, 15]


@pytest.mark.parametrize("name", CHOLECT50_SPLITS)
def test_every_split_has_each_of_the_fifty_videos_once(name: str) -> None:
    videos = [video for part in CHOLECT50_SPLITS[name].values() for video in part]
    assert sorted(videos) == sorted(FIFTY)
    assert len(videos) == 50


@pytest.mark.parametrize("name", CHOLECT45_SPLITS)
def test_every_split_of_cholect45_has_each_of_its_videos_once(name: str) -> None:
    split = {part: list(videos) for part, videos in CHOLECT45_SPLITS[name].items()}
    assert sorted(v for videos in split.values() for v in videos) == sorted(FIFTY - {111, 96, 103, 110, 92})
    assert {part: len(videos) for part, videos in split.items()} == {"train": 31, "val": 5, "test": 9}


def test_validation_is_the_last_five_of_the_folds_that_are_left() -> None:
    assert list(CHOLECT50_SPLITS["crossval-1"]["val"]) == [1, 56, 4, 13, 92]
    assert list(CHOLECT50_SPLITS["crossval-5"]["val"]) == [75, 22, 49, 12, 110]
    assert list(CHOLECT45_SPLITS["crossval-1"]["val"]) == [74, 1, 56, 4, 13]
    assert list(CHOLECT45_SPLITS["crossval-5"]["test"]) == [78, 43, 62, 35, 74, 1, 56, 4, 13]


def test_the_challenge_keeps_the_five_videos_outside_cholec80_for_its_test() -> None:
    assert sorted(CHOLECT50_SPLITS["challenge"]["test"]) == [92, 96, 103, 110, 111]
    assert len(list(CHOLECT50_SPLITS["challenge"]["train"])) == 40


def test_the_budgets_are_training_videos_of_one_split_only() -> None:
    budgets = {video for draws in ENDOVIT_BUDGETS.values() for draw in draws for video in draw}
    fitting = [name for name, split in CHOLECT45_SPLITS.items() if budgets <= set(split["train"])]
    assert fitting == [ENDOVIT_SPLIT]
    for name, draws in ENDOVIT_BUDGETS.items():
        assert [len(set(draw)) for draw in draws] == [int(name.split("-")[1])] * 3
