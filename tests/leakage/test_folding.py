"""Sixty cases of one kind are one line; a few are a line each; nothing gets lost."""

from __future__ import annotations

from typing import Any

import pytest

from trocar.leakage.verdict import ALONE, called, fold


def leak(
    number: int, how: str = "the same case", test: str = "bkai", verdict: str = "test case seen unlabelled"
) -> Any:
    tasks = ["polyps"]
    return {
        "pool": f"bkai/{number:03d}",
        "test": f"{test}/{number:03d}",
        "tasks": tasks,
        "verdict": verdict,
        "how": how,
    }


def test_many_cases_of_one_kind_are_one_line() -> None:
    (line,) = fold([leak(n) for n in range(60)])
    assert (line.pool, line.test, line.how) == ("60 cases of bkai", "60 cases of bkai", "the same case")
    assert line.pools == tuple(f"bkai/{n:03d}" for n in range(60))


@pytest.mark.parametrize(("count", "lines"), [(ALONE, ALONE), (ALONE + 1, 1)])
def test_a_few_have_a_line_each(count: int, lines: int) -> None:
    found = fold([leak(n) for n in range(count)])
    assert len(found) == lines
    assert [pool for line in found for pool in line.pools] == [f"bkai/{n:03d}" for n in range(count)]


def test_ways_of_being_found_that_differ_in_names_and_numbers_are_one_kind() -> None:
    (line,) = fold([leak(n, f"{n + 2} pictures of v{n}.mp4 are in w{n}.mp4, {n}.5 s away") for n in range(9)])
    assert line.how == "such as: 2 pictures of v0.mp4 are in w0.mp4, 0.5 s away"


def test_other_sets_and_verdicts_are_other_kinds() -> None:
    found = fold(
        [leak(n, test=t, verdict=v) for n in range(5) for t in ("bkai", "kvasir") for v in ("suspect", "seen")]
    )
    assert [(line.test, line.verdict) for line in found] == [
        ("5 cases of bkai", "suspect"),
        ("5 cases of bkai", "seen"),
        ("5 cases of kvasir", "suspect"),
        ("5 cases of kvasir", "seen"),
    ]


def test_a_case_in_several_pairs_counts_once() -> None:
    assert called(["bkai/1", "bkai/1", "bkai/2"]) == "2 cases of bkai"
    assert called(["bkai/1", "bkai/1"]) == "bkai/1"
