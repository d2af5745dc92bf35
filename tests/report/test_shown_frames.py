"""What a page shows of cases: not what is private; and its hardest frames: one of a case, where most runs are wrong."""

import pytest
from data_factory import make_catalog
from planted_study import Planted, plant

from trocar.report.shown_frames import KnownCases, hardest
from trocar.study.results import StudyResults


def test_a_case_is_known_with_what_it_is_of(tmp_path):
    make_catalog(tmp_path, 2, 2)
    known = KnownCases.of([tmp_path])
    assert known.about["phantom/case01"] == {"source": "phantom", "hospital": "south", "procedure": "cholecystectomy"}


def test_private_cases_are_numbered_and_others_keep_their_names(tmp_path):
    make_catalog(tmp_path, 3, 2, private=["case01"])
    known = KnownCases.of([tmp_path])
    assert known.named(["case00", "phantom/case01", "elsewhere"]) == {
        "case00": "case00",
        "phantom/case01": "private case 1 of phantom",
        "elsewhere": "elsewhere",
    }
    assert not known.may_show("case01")


def test_a_catalog_that_is_private_anywhere_hides_the_case_everywhere(tmp_path):
    make_catalog(tmp_path / "a", 2, 2)
    make_catalog(tmp_path / "b", 2, 2, private=["case00"])
    assert not KnownCases.of([tmp_path / "a", tmp_path / "b"]).may_show("phantom/case00")


def test_what_a_missing_catalog_would_say_is_unknown_so_nothing_is_shown(tmp_path):
    known = KnownCases.of([tmp_path / "nowhere"])
    assert list(known.unread) == [str(tmp_path / "nowhere")]
    assert not known.may_show("case00")


def scores_of(root, planted):
    study, store = plant(root, planted)
    return StudyResults.load(study, store).scores


def test_the_frame_that_most_runs_get_wrong_stands_for_its_case(tmp_path):
    # Frames 6 to 8 of a case are wrong in the init alone, frame 9 in both.
    found = hardest(scores_of(tmp_path, Planted({"north": 0.8}, given={"init": 0.6}, seeds=1)), 4)
    assert len(found) == 4
    assert len({hard.case for hard in found}) == 4
    assert {hard.wrong for hard in found} == {1.0}
    assert all(hard.time_s >= 7 for hard in found)
    assert found[0].said == "truth: Closing\npredicted: Preparation (2 of 2 runs)"


def test_cases_stand_by_their_worst_frame(tmp_path):
    found = hardest(scores_of(tmp_path, Planted({"north": 1.0}, given={"init": 1.0}, seeds=1)), 12)
    # Of every third case the last frame is wrong; nothing else is.
    assert [hard.wrong for hard in found] == [1.0] * 4 + [0.0] * 8


def test_masks_are_hard_where_little_of_them_is_found(tmp_path):
    found = hardest(scores_of(tmp_path, Planted({"north": 0.5}, given={"init": 0.5}, seeds=1, tasks=("masks",))), 2)
    background = (32 * 42 - 144) / (32 * 42 - 144 + 72)
    assert found[0].wrong == pytest.approx(1 - (background + 0.5) / 2)
    assert found[0].said == f"mean IoU {(background + 0.5) / 2:.3f} over 2 runs"
