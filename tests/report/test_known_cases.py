from data_factory import make_catalog

from trocar.report.shown_frames import KnownCases


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
