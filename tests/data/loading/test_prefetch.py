import threading

import pytest

from trocar.data.loading.prefetch import AHEAD, in_thread
from trocar.data.loading.workers import Patience
from trocar.errors import TrocarError


def threads():
    return [t for t in threading.enumerate() if t.name == "trocar-prefetch"]


def test_items_come_in_order_from_another_thread():
    made_by = []

    def make():
        made_by.append(threading.current_thread().name)
        yield from range(20)

    assert list(in_thread(make)) == list(range(20))
    assert made_by == ["trocar-prefetch"]
    assert threads() == []


def test_an_error_comes_behind_the_items_before_it():
    def make():
        yield from (1, 2, 3)
        raise KeyError("four")

    items = in_thread(make)
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="four"):
        next(items)
    assert threads() == []


def test_only_a_bounded_number_of_items_is_made_ahead():
    made, first = [], threading.Event()

    def make():
        for i in range(100):
            made.append(i)
            if i == AHEAD + 1:
                first.set()
            yield i

    items = in_thread(make)
    assert next(items) == 0
    assert first.wait(10)
    # One that was taken, those that wait, and the one whose turn it is to wait.
    assert len(made) <= AHEAD + 2
    items.close()
    assert len(made) <= AHEAD + 3


def test_a_dropped_iterator_ends_its_thread():
    items = in_thread(lambda: iter(range(100)))
    next(items)
    assert len(threads()) == 1
    del items
    assert threads() == []


def test_a_thread_that_is_stuck_is_left_behind_after_the_limit():
    released = threading.Event()

    def make():
        yield from (0, 1)
        released.wait(30)
        yield 2

    patience = Patience(5, 1, 0.4)
    items = in_thread(make, patience)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(TrocarError, match=r"no batch for 0 s .*, step 7, rank 1"):
        next(items)
    assert len(threads()) == 1  # nothing ends it from outside, and nobody waits for it
    released.set()
    threads()[0].join(10)
    assert threads() == []
