"""The counting itself: what is missing or another is lost, and a fault whose end nobody looked at is not survived."""

from pathlib import Path

import pytest
from fault_record import MARKS, Injection, Injector, every_third, read, table, write_table


def test_a_comparison_counts_what_is_missing_and_what_is_another() -> None:
    injection = Injection("SIGKILL", "trainer", "", 0, "", "test")
    with pytest.raises(AssertionError):
        injection.compare({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3})
    assert injection.lost == 2


def test_one_is_not_true() -> None:
    with pytest.raises(AssertionError):
        Injection("SIGKILL", "trainer", "", 0, "", "test").compare({"a": 1}, {"a": True})


def test_what_nobody_promised_is_an_error_and_not_a_loss() -> None:
    injection = Injection("SIGKILL", "trainer", "", 0, "", "test")
    with pytest.raises(AssertionError):
        injection.compare({"a": 1}, {"a": 1, "b": 2})
    assert injection.lost == 0


def test_a_fault_whose_end_was_not_compared_is_not_survived() -> None:
    properties: list[tuple[str, object]] = []
    injector = Injector("test", properties)
    with pytest.raises(AssertionError, match="compared with nothing"), injector("SIGKILL", "trainer", "continues"):
        pass
    with injector("SIGKILL", "trainer", "continues", seed=1) as injection:
        injection.compare({"a": 1}, {"a": 1})
    assert [(i.survived, i.lost) for i in read(properties)] == [(False, None), (True, 0)]


def test_the_table_has_a_row_per_fault_and_place_and_the_sum() -> None:
    group = [Injection("SIGKILL", "trainer", "continues", n, "", "test_a", True, 0) for n in range(3)]
    lines = table([*group, Injection("full disk", "catalog", "says so", 0, "", "test_b", False, 2)])
    assert lines[2:] == [
        "| catalog | full disk | says so | 1 | 0 | 2 | `test_b` |",
        "| trainer | SIGKILL | continues | 3 | 3 | 0 | `test_a` |",
        "| **all** | | | 4 | 3 | 2 | |",
    ]


def test_the_table_of_a_page_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write_table(page, ["new"])
    write_table(page, ["newer"])
    assert page.read_text() == f"before\n{MARKS[0]}\nnewer\n{MARKS[1]}\nafter\n"


def test_the_thirds_make_up_all_faults_and_have_none_twice() -> None:
    names = [f"test_{i}" for i in range(11)]
    thirds = [every_third(reversed(names), third) for third in range(3)]
    assert sorted(map(len, thirds)) == [3, 4, 4]
    assert set.union(*thirds) == set(names)
