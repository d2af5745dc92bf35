import pytest

from trocar.errors import ConfigError
from trocar.slurm.arrays import JobStage, check, dependents, plan
from trocar.slurm.executor import ranges

W = ("presets", "list")


def one(name, *after, **more):
    return JobStage(name, W, after, **more)


def shape(arrays):
    """Indices and names, what each element corresponds to, and what all wait for."""
    return [
        ({i: s.name for i, s in array.stages.items()}, array.dependency({a.key: a.key.upper() for a in arrays}))
        for array in arrays
    ]


def test_stages_that_wait_for_nothing_are_one_array():
    assert shape(plan([one("a"), one("b")])) == [({0: "a", 1: "b"}, None)]


def test_one_to_one_is_an_array_with_the_parents_indices():
    # b is finished, so its child is free; the others keep the places of their parents
    stages = [one("a"), one("c"), one("d"), one("A", "a"), one("C", "c"), one("D", "d"), one("CC", "C")]
    assert shape(plan(stages)) == [
        ({0: "a", 1: "c", 2: "d"}, None),
        ({0: "A", 1: "C", 2: "D"}, "aftercorr:A0"),
        ({1: "CC"}, "aftercorr:A1"),
    ]


def test_two_parents_of_one_index_in_two_arrays_still_correspond():
    stages = [one("a0"), one("a1"), one("b0", resources={"mem_gb": 1}), one("b1", resources={"mem_gb": 1})]
    stages += [one("c0", "a0", "b0"), one("c1", "a1", "b1")]
    assert shape(plan(stages))[2] == ({0: "c0", 1: "c1"}, "aftercorr:A0,aftercorr:A1")


def test_several_children_of_many_parents_are_an_array_per_child():
    stages = [one(f"p{i}") for i in range(3)] + [one(f"{c}{i}", f"p{i}") for i in range(3) for c in "xy"]
    assert shape(plan(stages))[1:] == [
        ({0: "x0", 1: "x1", 2: "x2"}, "aftercorr:A0"),
        ({0: "y0", 1: "y1", 2: "y2"}, "aftercorr:A0"),
    ]
    assert [array.siblings for array in plan(stages)] == [1, 2, 2]  # they share the limit of parallelism


def test_many_children_of_few_parents_are_an_array_per_parent():
    stages = [one("p"), one("q"), *(one(f"p{i}", "p") for i in range(5)), *(one(f"q{i}", "q") for i in range(3))]
    assert [dependency for _, dependency in shape(plan(stages))] == [None, "afterok:A0_0", "afterok:A0_1"]


def test_what_waits_for_all_elements_waits_for_the_array_and_for_some_by_name():
    assert shape(plan([one("a"), one("b"), one("all", "a", "b")]))[1] == ({0: "all"}, "afterok:A0")
    assert shape(plan([one("a"), one("b"), one("c"), one("ab", "a", "b")]))[1][1] == "afterok:A0_0:A0_1"


def test_a_tolerant_stage_waits_for_the_end_of_those_before_whatever_it_is():
    assert shape(plan([one("a"), one("b"), one("all", "a", "b", tolerant=True)]))[1][1] == "afterany:A0"
    assert shape(plan([one("a"), one("next", "a", tolerant=True)]))[1][1] == "afterany:A0"


def test_a_parent_that_runs_already_is_waited_for_and_one_that_is_finished_is_not():
    assert plan([one("b", "a")], {"a": "17_3"})[0].dependency({}) == "afterok:17_3"
    assert plan([one("b", "a")])[0].dependency({}) is None


def test_thousands_of_stages_are_few_arrays():
    stages = [one(f"p{i}") for i in range(2500)] + [one(f"c{i}", f"p{i}") for i in range(2500)]
    arrays = plan(stages, most=1000)
    assert [len(array.stages) for array in arrays] == [1000, 1000, 500, 1000, 1000, 500]
    assert max(max(array.stages) for array in arrays) == 999
    assert [array.siblings for array in arrays] == [3] * 6


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([one("a"), one("a")], "two stages are called 'a'"),
        ([one("a"), one("b", "aa")], "did you mean 'a'"),
        ([one("a", "b"), one("b", "a")], "in a circle: a, b"),
        ([one("a b")], "can't be the name of a stage"),
    ],
)
def test_a_graph_that_is_none_is_refused(stages, words):
    with pytest.raises(ConfigError, match=words):
        check(stages)


def test_dependents_are_all_that_wait_also_through_others():
    stages = [one("a"), one("b", "a"), one("c", "b"), one("d")]
    assert dependents(stages, ["a"]) == {"b", "c"}
    assert dependents(stages, ["c"]) == set()


def test_indices_fit_into_one_line():
    assert ranges([0, 1, 2, 3, 7]) == "0-3,7"
    assert ranges([5]) == "5"
    assert ranges([4, 2]) == "2,4"
    assert ranges(range(1000)) == "0-999"
