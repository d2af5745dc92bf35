"""Mean rank over tasks."""

import numpy as np
import pytest
from statistics_factory import known, scored

from trocar.errors import TrocarError
from trocar.study.statistics.crossed import CASES_ONLY, SEEDS_AND_CASES, Crossed, rank_over_tasks


def test_ranks_are_averaged_and_ties_share_theirs():
    tasks = {
        "phase": scored({"a": [0.9, 0.9], "b": [0.5, 0.5], "c": [0.5, 0.5]}),
        "tools": scored({"a": [0.2, 0.2], "b": [0.8, 0.8], "c": [0.1, 0.1]}),
    }
    found = rank_over_tasks(tasks)
    assert {rank.arm: rank.mean for rank in found.ranks} == {"a": 1.5, "b": 1.75, "c": 2.75}
    assert [rank.arm for rank in found.ranks] == ["a", "b", "c"]
    assert found.ranks[0].ranks == {"phase": 1.0, "tools": 2.0}
    # b and c are not shown to differ on the phase: there each may have rank 2 or 3
    assert [(rank.low, rank.high) for rank in found.ranks] == [(1.5, 1.5), (1.5, 2.0), (2.5, 3.0)]
    assert [rank.best for rank in found.ranks] == [1.0, 0.0, 0.0]


def test_an_error_is_better_small():
    task = {"distance": scored({"a": [9.0, 9.0], "b": [1.0, 1.0]})}
    assert rank_over_tasks(task).ranks[0].arm == "a"
    assert rank_over_tasks(task, smaller_is_better=["distance"]).ranks[0].arm == "b"


def test_arms_that_seeds_do_not_tell_apart_have_ranks_that_overlap():
    found = rank_over_tasks({"phase": scored({"a": [0.5, 0.7], "b": [0.49, 0.69], "c": [-9.0, -9.2]})})
    first, second, last = found.ranks
    assert (first.low, first.high) == (second.low, second.high) == (1.0, 2.0)
    assert 0.4 < second.best < first.best < 0.6
    assert last.best == 0
    assert not found.too_narrow
    few = Crossed({name: known(name, [0.5, 0.7], cases=6) for name in "ab"})
    assert rank_over_tasks({"phase": few}).too_narrow
    assert found.scope == SEEDS_AND_CASES


@pytest.mark.parametrize(("cases", "known_share"), [(1, False), (2, False), (3, True)])
def test_a_task_of_one_case_has_no_share_of_draws(cases, known_share):
    tasks = {"many": Crossed({n: known(n, [0.5, 0.7]) for n in "ab"})}
    tasks["few"] = Crossed({n: known(n, [0.5, 0.7], cases=cases) for n in "ab"})
    assert [np.isfinite(rank.best) for rank in rank_over_tasks(tasks).ranks] == [known_share] * 2


def test_a_task_that_lacks_an_arm_is_left_out():
    tasks = {"phase": scored({"a": [1.0], "b": [0.0]}), "tools": scored({"a": [1.0]})}
    found = rank_over_tasks(tasks)
    assert (found.tasks, found.left_out, found.scope) == (("phase",), ("tools",), CASES_ONLY)
    with pytest.raises(TrocarError, match="no task was scored for all arms"):
        rank_over_tasks({"phase": scored({"a": [1.0]}), "tools": scored({"b": [1.0]})})


def test_draws_without_a_value_are_left_out_of_ranks():
    task = scored({"a": [0.9, 0.9], "b": [0.5, 0.5]})
    task["a"].drawn[:, ::2] = np.nan
    assert [(rank.arm, rank.low, rank.high) for rank in rank_over_tasks({"t": task}).ranks] == [
        ("a", 1, 1),
        ("b", 2, 2),
    ]


def test_an_arm_that_is_a_little_better_on_many_tasks_may_still_be_first_or_last():
    tasks = {str(k): scored({"a": [0.5, 0.7], "b": [0.4, 0.65], "c": [0.3, 0.6]}) for k in range(5)}
    assert [(rank.mean, rank.low, rank.high) for rank in rank_over_tasks(tasks).ranks] == [
        (1, 1, 3),
        (2, 1, 3),
        (3, 1, 3),
    ]
    known_well = {str(k): scored({"a": [0.5, 0.501], "b": [0.3, 0.301], "c": [0.1, 0.101]}) for k in range(5)}
    assert [(rank.low, rank.high) for rank in rank_over_tasks(known_well).ranks] == [(1, 1), (2, 2), (3, 3)]


def test_more_tasks_make_every_test_of_a_rank_stricter():
    one = scored({"a": [0.5, 0.53], "b": [0.3, 0.33]})
    alone, many = (rank_over_tasks({str(k): one for k in range(tasks)}).ranks[0] for tasks in (1, 40))
    assert (alone.low, alone.high) == (1, 1)
    assert (many.low, many.high) == (1, 2)
