"""Several iterators at a time give what they give one after another, in another order, and end with their user."""

import threading

import pytest

from trocar.data.loading.prefetch import mixed

NAMES = "abcdefg"


def make(name, count=20):
    def run():
        for number in range(count):
            yield name, number

    return run


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "trocar-several"]


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_every_item_comes_once_and_those_of_one_in_order(at_once):
    found = list(mixed([make(name) for name in NAMES], at_once))
    assert len(found) == 20 * len(NAMES)
    for name in NAMES:
        assert [number for own, number in found if own == name] == list(range(20))
    assert threads() == []


def test_they_run_at_the_same_time():
    both = threading.Barrier(2, timeout=20)

    def run():
        both.wait()
        yield "met"

    assert list(mixed([run, run], 2)) == ["met", "met"]


def test_an_error_of_one_is_raised_and_ends_the_others():
    def broken():
        yield "first", 0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(mixed([make("a", 10**9), broken, make("b", 10**9)], 3))
    assert threads() == []


def test_closing_it_ends_its_threads():
    items = mixed([make(name, 10**9) for name in NAMES], 4)
    next(items)
    assert len(threads()) == 4
    items.close()
    assert threads() == []
    assert list(mixed([], 0)) == []
