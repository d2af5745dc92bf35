"""Several threads that read change nothing: rows, bytes, boxes, what is bad, and by which error a run ends."""

import random
import zlib
from dataclasses import fields

import numpy as np
import pytest
from data_factory import make_catalog
from stream_factory import make_loader

from trocar.data.loading import reader as reading
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import ReadAhead, Reader
from trocar.data.selection.neighbours import NeighbourSource, resolve_neighbours
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.errors import TrocarError

STEPS = 5


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Five shards; of 65 frames 9 have other bytes than the catalog says."""
    made = make_catalog(tmp_path_factory.mktemp("shards"), 5, 13, size=[(64, 48), (40, 30)])
    crc = made.frames["crc32"].copy()
    crc[::7] ^= 1
    made.frames = {**made.frames, "crc32": crc}
    return made


def one_frame(catalog, known_bad):
    return make_loader(catalog, known_bad).steps


def with_neighbours(catalog, known_bad):
    groups = {
        "global": ViewGroup(count=2, size=24, scale=(0.4, 1.0)),
        "near": ViewGroup(count=1, size=16, scale=(0.4, 1.0), frame=1),
    }
    recipe = ViewRecipe(groups=groups)
    base = make_loader(catalog, known_bad)
    rule = resolve_neighbours(NeighbourSource(), catalog, base.plan.selection, 1)
    views = ViewPlan(recipe, 1)
    return Loader(base.plan, views, base.reader, base.mean, base.std, workers=0, neighbours=rule).steps


def delivered(steps, ahead):
    """Everything that leaves a step, in the order in which it does."""
    out = []
    for step in range(STEPS):
        samples = []

        def use(index, frames, params, samples=samples):
            samples.append((index, [bytes(frame) for frame in frames], params.boxes[index].tolist()))

        done = steps.deliver(step, lambda row, jpeg: jpeg, use, ahead)
        params = [getattr(done.params, f.name).tobytes() for f in fields(done.params)]
        out.append((samples, done.frames.tolist(), params, done.bad))
    return out


@pytest.mark.parametrize("make", [one_frame, with_neighbours])
@pytest.mark.parametrize("known_bad", [frozenset(), frozenset({7, 9, 14, 33})])
def test_the_number_of_reading_threads_changes_nothing(catalog, make, known_bad):
    expected = delivered(make(catalog, known_bad), None)
    assert any(bad for *_, bad in expected)
    for threads in (1, 2, 8, 50):
        ahead = ReadAhead(threads)
        assert delivered(make(catalog, known_bad), ahead) == expected
        ahead.close()


class Failing(Reader):
    """Some rows can't be read, each for a reason of its own."""

    failing = frozenset()

    def _pread(self, shard, offset, size, into):
        row = int(
            np.flatnonzero((self.catalog.frames["shard"] == shard) & (self.catalog.frames["offset"] == offset))[0]
        )
        if row in self.failing:
            raise TrocarError(f"cannot read row {row}")
        return super()._pread(shard, offset, size, into)


@pytest.mark.parametrize("make", [one_frame, with_neighbours])
@pytest.mark.parametrize("seed", range(6))
def test_a_run_ends_at_the_frame_and_by_the_error_that_one_thread_finds(catalog, monkeypatch, make, seed):
    monkeypatch.setattr("stream_factory.Reader", Failing)
    monkeypatch.setattr(Failing, "failing", frozenset(random.Random(seed).sample(range(65), 3)))

    def until_it_ends(ahead):
        seen = []

        def use(index, frames, params):
            seen.append((index, [zlib.crc32(frame) for frame in frames]))

        def deliver():
            for step in range(50):
                make(catalog, frozenset()).deliver(step, lambda row, jpeg: jpeg, use, ahead)

        with pytest.raises(TrocarError, match="cannot read row") as raised:
            deliver()
        return seen, str(raised.value)

    expected = until_it_ends(None)
    for threads in (2, 8):
        ahead = ReadAhead(threads)
        assert until_it_ends(ahead) == expected
        ahead.close()


def test_threads_stop_behind_the_first_row_that_cannot_be_read(catalog, monkeypatch):
    """A file system that fails fails slowly: a step of a thousand rows must not try each of them."""
    monkeypatch.setattr(reading.time, "sleep", lambda seconds: None)
    tried = []

    class Broken(Reader):
        def _pread(self, shard, offset, size, into):
            tried.append(offset)
            raise TrocarError("cannot read")

    reader, ahead = Broken(catalog), ReadAhead(4)
    read = ahead(reader, range(65))
    assert len(tried) <= 4
    with pytest.raises(TrocarError, match="cannot read"):
        read(0)
    ahead.close()


def test_a_row_nobody_announced_is_read_when_it_is_asked_for(catalog):
    ahead = ReadAhead(2)
    reader = Reader(catalog)
    read = ahead(reader, [1, 2])
    assert read(3) == reader.read(3)
    assert ahead(reader, [])(4) == reader.read(4)
    ahead.close()
