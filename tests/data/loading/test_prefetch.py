import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trocar.data.loading.batch import Batch
from trocar.data.loading.prefetch import AHEAD, handed_over, in_thread, one_ahead
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


def test_one_item_is_made_before_the_one_before_it_is_handed_out():
    made = []

    def make():
        for i in range(4):
            made.append(i)
            yield i

    items, seen = one_ahead(make()), []
    for item in items:
        seen.append((item, len(made)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_a_batch_is_handed_over_with_events_on_both_sides_of_the_wait_and_nobody_waits_on_the_host(monkeypatch):
    """In the order in which the training's stream is given its work; an event can only be recorded here."""
    order = []
    stream = SimpleNamespace(wait_event=lambda event: order.append(("wait", event)))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, on):
            assert on is stream
            order.append(("record", self))

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    views = SimpleNamespace(record_stream=lambda on: order.append(("use", on)))
    made = Batch(3, np.arange(2), {"global": views}, None)
    (batch,) = handed_over(iter([(made, "views are there")]), torch.device("cuda"))
    asked, given = batch.handed
    assert order == [("record", asked), ("wait", "views are there"), ("record", given), ("use", stream)]
    assert (batch.step, batch.views) == (made.step, made.views)
