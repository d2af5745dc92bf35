"""DALI's memory is not read after it was handed back, wherever our stream is by then.

The doubles encode our reading of DALI's source (`trocar/data/loading/dali_stream.py` names the lines), not a promise
of DALI: memory of an output that nobody holds goes back to the pool at once, whatever of ours is still queued, and
the next iteration writes into it. Nothing here ran on a GPU.
"""

import random
from collections import deque

import numpy as np
import pytest
import torch
from data_factory import make_catalog
from stream_factory import make_loader

from trocar.data.loading import dali_stream
from trocar.data.loading.batch import Crops
from trocar.data.loading.dali_pipeline import DEPTH
from trocar.data.loading.dali_stream import MOST_HELD, Held

STEPS = 24
ALL = 1 << 20


class Stream:
    """Our stream: what is queued runs when the device gets to it."""

    def __init__(self):
        self.queue, self.issued, self.done = deque(), 0, 0
        self.idle = False  # then it gets to everything at once

    def put(self, work):
        self.queue.append(work)
        self.issued += 1
        if self.idle:
            self.run(ALL)

    def run(self, count):
        for _ in range(min(count, len(self.queue))):
            self.queue.popleft()()
            self.done += 1


class Event:
    stream: Stream

    def __init__(self, blocking=False):
        self.at = None

    def record(self, stream):
        self.at = stream.issued

    def query(self):
        return self.stream.done >= self.at

    def synchronize(self):
        self.stream.run(self.at - self.stream.done)


class Pool:
    """DALI's memory: blocks of one size, the one that came back last is the next to be handed out."""

    def __init__(self):
        self.free, self.made = [], 0

    def lease(self, content):
        if not self.free:
            self.made += 1
            self.free.append({})
        block = self.free.pop()
        block["content"] = content
        return Lease(self, block)


class Lease:
    """Gives its block back with the last reference to it, as the shared pointer behind an output does."""

    def __init__(self, pool, block):
        self.pool, self.block = pool, block

    def __del__(self):
        self.block["content"] = "handed back"
        self.pool.free.append(self.block)


class Shared:
    """What dlpack makes of an output: the same memory, held."""

    def __init__(self, stream, lease):
        self.stream, self.lease = stream, lease

    def permute(self, *axes):
        return Shared(self.stream, self.lease)

    def contiguous(self):
        copy, block = Copy(), self.lease.block  # a queued copy holds nothing
        self.stream.put(lambda: setattr(copy, "content", block["content"]))
        return copy


class Copy:
    content = "not there yet"


class Output:
    def __init__(self, tensor):
        self.tensor = tensor

    def as_tensor(self):
        return self.tensor


class Pipeline:
    """Keeps `DEPTH` iterations in flight, written as soon as they are asked for: DALI's stream runs ahead of ours."""

    def __init__(self, source, frames, groups, stream, pool, breaks_at=None):
        self.source, self.frames, self.groups = source, frames, groups
        self.stream, self.pool, self.breaks_at = stream, pool, breaks_at
        self.inside, self.ended = deque(), False

    def run(self, stream):
        assert stream is self.stream
        while len(self.inside) <= DEPTH and not self.ended:
            try:
                tags = self.source()[self.frames]
            except StopIteration:
                self.ended = True
                break
            leases = [self.pool.lease((int(tags[0, 0]), group)) for group in range(self.groups)]
            self.inside.append((tags, leases))
        if not self.inside:
            raise StopIteration
        tags, leases = self.inside.popleft()
        if int(tags[0, 0]) == self.breaks_at:
            raise RuntimeError("decoder says no")
        return [Output(tags), *(Output(Shared(self.stream, lease)) for lease in leases)]


class NothingHeld(Held):
    """As it was: the copy is queued, and what it reads is let go of at once."""

    def crops(self, outputs):
        shared = [dali_stream.from_dlpack(output.as_tensor()) for output in outputs]
        return [frames.permute(0, 1, 4, 2, 3).contiguous() for frames in shared]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return make_loader(make_catalog(tmp_path_factory.mktemp("shards"), 2, 8)).steps


@pytest.fixture
def make(monkeypatch, steps):
    """Makes a stream of crops whose device is `stream` and whose memory is `pool`."""
    stream, pool, breaks = Stream(), Pool(), []
    monkeypatch.setattr(Event, "stream", stream, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(dali_stream, "from_dlpack", lambda tensor: tensor)
    monkeypatch.setattr(dali_stream, "require", lambda: None)

    def build(recipe, batch, source, *args):
        return Pipeline(source, recipe.frames, len(recipe.groups), stream, pool, breaks.pop() if breaks else None)

    monkeypatch.setattr(dali_stream, "build_pipeline", build)

    def made(breaks_at=None):
        breaks[:] = [breaks_at]
        return dali_stream.DaliStream(steps, 0, STEPS, torch.device("cuda"), 1, 0.0)

    return made, stream, pool


def misplaced(crops):
    """Steps whose crops, once the device is done, are not their own."""
    return [x.step for x in crops if [c.content for c in x.crops.values()] != [(x.step, 0)]]


def lags():
    """Copies that the device gets to per step, in turns: never, behind, in bursts, at once."""
    rng = random.Random(0)
    return {
        "only when waited for": [0],
        "in bursts": [0, 0, 3],
        "a step behind": [0] + [1] * STEPS,
        "at random": [rng.randrange(4) for _ in range(STEPS)],
        "at once": None,
    }


def run(made, stream, lag):
    out, stream.idle = [], lag is None
    for step, crops in enumerate(made()):
        out.append(crops)
        stream.run(lag[step % len(lag)] if lag else 0)
    stream.run(ALL)
    return out


@pytest.mark.parametrize("lag", lags().values(), ids=lags().keys())
def test_crops_are_those_of_their_step_however_far_the_device_is_behind(make, lag):
    made, stream, pool = make
    crops = run(made, stream, lag)
    assert [x.step for x in crops] == list(range(STEPS))
    assert misplaced(crops) == []
    assert pool.made <= MOST_HELD + 1 + DEPTH + 1  # held, the one at hand, in flight


@pytest.mark.parametrize("lag", lags().values(), ids=lags().keys())
def test_letting_go_of_outputs_at_once_reads_what_was_handed_back_unless_the_device_is_idle(make, monkeypatch, lag):
    monkeypatch.setattr(dali_stream, "Held", NothingHeld)
    made, stream, _ = make
    assert bool(misplaced(run(made, stream, lag))) == (lag is not None)


def test_a_stream_of_crops_that_is_closed_early_waits_for_its_copies(make):
    made, stream, _ = make
    closed = made()
    crops = [next(closed) for _ in range(3)]
    closed.close()
    later = run(made, stream, [0])  # another pipeline, in the same memory
    assert misplaced(crops + later) == []


def test_a_pipeline_that_breaks_waits_for_its_copies_too(make, monkeypatch):
    made, stream, _ = make
    monkeypatch.setattr(dali_stream, "to_device", lambda crops, device: crops)
    monkeypatch.setattr(dali_stream, "is_decodable", lambda jpeg, device: True)
    monkeypatch.setattr(Crops, "pin_memory", lambda self: self)
    crops = list(made(breaks_at=4))
    stream.run(ALL)
    assert [x.step for x in crops] == list(range(STEPS))
    assert isinstance(crops[4].crops["global"], torch.Tensor)  # by the torch backend
    assert misplaced([x for x in crops if x.step != 4]) == []


def test_on_a_cpu_outputs_are_copied_and_nothing_is_held():
    held = Held(torch.device("cpu"))
    memory = torch.arange(2 * 3 * 4 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 4, 3)
    expected = memory.permute(0, 1, 4, 2, 3).clone()
    (crops,) = held.crops([Output(memory)])
    memory.zero_()
    assert torch.equal(crops, expected)
    assert crops.is_contiguous()
    assert not held._waiting


def test_rows_stay_int64_tags(steps):
    """What the doubles read a step's number from."""
    done = steps.deliver(3, lambda row, jpeg: jpeg, lambda index, frames, params: None)
    tags = dali_stream.tags(done)
    assert tags.dtype == np.int64
    assert set(tags[:, 0]) == {3}
