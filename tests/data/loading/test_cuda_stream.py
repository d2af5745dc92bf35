from types import SimpleNamespace

import numpy as np
import torch

from trocar.data.loading.batch import Batch
from trocar.data.loading.cuda_stream import handed_over, one_ahead


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
