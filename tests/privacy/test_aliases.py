"""A name has one alias: in every text, over all runs of a study, and when other names join."""

import json
import stat

import pytest

from trocar.errors import TrocarError
from trocar.privacy.aliases import BOOK, FILE, Aliases, aliases_of, open_book, read_book, withheld, withhold
from trocar.privacy.private_data import Private


def test_cases_are_called_as_cases_and_all_else_is_withheld():
    hidden = Aliases(["case-0815", "case-0816", "Inselspital", "20240131"], cases=["case-0815", "case-0816"])
    assert hidden.table == {
        "20240131": "withheld-1",
        "Inselspital": "withheld-2",
        "case-0815": "private case 1",
        "case-0816": "private case 2",
    }
    assert hidden.text("/data/inselspital/case-0816.mp4") == "/data/withheld-2/private case 2.mp4"
    assert hidden.of("INSELSPITAL") == "withheld-2"
    assert hidden.of("elsewhere") == "elsewhere"
    assert hidden.cases == {"case-0815", "case-0816"}


def test_a_run_keeps_its_aliases_when_other_names_join(tmp_path):
    assert withhold(tmp_path, ["b"]).table == {"b": "withheld-1"}
    assert withhold(tmp_path, ["a", "b", "c"], cases=["c"]).table == {
        "a": "withheld-2",
        "b": "withheld-1",
        "c": "private case 1",
    }
    assert withheld(tmp_path).table == aliases_of(tmp_path, ["a", "b", "c"]).table
    assert withheld(tmp_path).cases == {"c"}


def test_all_runs_below_a_book_call_a_name_alike_and_it_learns_new_ones(tmp_path):
    open_book(tmp_path, ["Inselspital", "case-1"], cases=["case-1"])
    first, second = tmp_path / "stages" / "one" / "out", tmp_path / "stages" / "two" / "out"
    for run in (first, second):
        run.mkdir(parents=True)
    withhold(first, ["Aarau", "case-1"])
    withhold(second, ["Aarau", "Basel", "Inselspital"])
    assert withheld(first).table == {"Aarau": "withheld-2", "case-1": "private case 1"}
    assert withheld(second).table == {"Aarau": "withheld-2", "Basel": "withheld-3", "Inselspital": "withheld-1"}
    assert read_book(tmp_path) == withheld(first).table | withheld(second).table
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / BOOK, first / FILE)} == {0o600}


def test_a_book_is_made_only_for_names(tmp_path):
    assert not open_book(tmp_path, [])
    assert not (tmp_path / BOOK).exists()


def test_what_two_runs_call_differently_has_the_alias_of_the_first_and_no_two_names_share_one():
    one, other = Aliases(["b", "c"]), Aliases(["a", "b"])
    joined = Aliases.join([one, other])
    assert joined.table == {"a": "withheld-3", "b": "withheld-1", "c": "withheld-2"}


def test_a_damaged_book_names_nobody_anew(tmp_path):
    (tmp_path / BOOK).write_text(json.dumps({"aliases": ["Inselspital"]}))
    (tmp_path / "run").mkdir()
    with pytest.raises(TrocarError, match=r"aliases\.json is damaged"):
        withhold(tmp_path / "run", ["Inselspital"])


def test_a_file_in_the_place_of_a_run_folder_withholds_nothing(tmp_path):
    (tmp_path / "run").touch()
    assert not withheld(tmp_path / "run")


def test_of_two_names_with_one_alias_that_of_the_first_part_keeps_it():
    parts = [Private(names=frozenset({"b"}), called={"b": "withheld-1"}), Private(called={"a": "withheld-1"})]
    joined = Private.join([*parts, Private(names=frozenset({"a"}))])
    assert joined.hidden.table == {"a": "withheld-2", "b": "withheld-1"}
    assert Aliases.join([part.hidden for part in (parts[0], Private(names=frozenset({"a"})))]).of("b") == "withheld-1"
