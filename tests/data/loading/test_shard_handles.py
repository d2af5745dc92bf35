import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from data_factory import make_catalog

from trocar.data.loading import reader as reading
from trocar.data.loading import shard_files
from trocar.data.loading.reader import Reader
from trocar.data.loading.shard_files import MOST, ShardHandles, open_shards


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def paths(tmp_path):
    made = [tmp_path / str(number) for number in range(5)]
    for path in made:
        path.write_text(path.name)
    return made


def test_limits_leave_descriptors_for_all_else():
    assert open_shards(1024) == 512
    assert open_shards(256) == 64
    assert open_shards(65_536) == MOST
    assert open_shards(resource.RLIM_INFINITY) == MOST


def test_a_shard_that_is_forgotten_while_it_is_read_is_closed_behind_the_read(paths):
    handles = ShardHandles()
    with handles.use(0, paths.__getitem__, 2) as descriptor:
        handles.forget(0)
        assert os.pread(descriptor, 1, 0) == b"0"
        with handles.use(0, paths.__getitem__, 2) as another:
            assert another != descriptor
    assert not is_open(descriptor)
    assert is_open(another)


def test_the_shard_used_longest_ago_is_closed_unless_it_is_in_use(paths):
    handles = ShardHandles()
    with handles.use(0, paths.__getitem__, 2) as descriptor:
        for shard in (1, 2, 1, 3):
            with handles.use(shard, paths.__getitem__, 2):
                pass
        assert os.pread(descriptor, 1, 0) == b"0"
    assert list(handles._open) == [0, 3]
    with handles.use(4, paths.__getitem__, 2):
        assert list(handles._open) == [3, 4]


def test_what_is_open_is_closed_when_the_reader_goes(tmp_path):
    reader = Reader(make_catalog(tmp_path / "shards", 3, 4))
    for row in range(12):
        reader.read(row)
    before = descriptors()
    later = reader.knowing({0})
    del reader
    assert descriptors() == before
    del later
    assert descriptors() == before - 3


def test_a_copy_starts_with_nothing_open(paths):
    handles = ShardHandles()
    with handles.use(0, paths.__getitem__, 2):
        assert len(pickle.loads(pickle.dumps(handles))) == 0


def test_threads_that_share_two_descriptors_read_what_one_thread_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "OPEN_SHARDS", 2)
    catalog = make_catalog(tmp_path, 5, 13)
    expected = [Reader(catalog).read(row) for row in range(65)]
    shared, opened = Reader(catalog), len(list(Path("/proc/self/fd").iterdir()))
    rows = [(7 * i) % 65 for i in range(650)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shared.read, rows))
    assert found == [expected[row] for row in rows]
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 8


def test_a_step_opens_no_shard_twice_and_advises_for_what_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "OPEN_SHARDS", 2)
    catalog = make_catalog(tmp_path, 5, 4)
    opened, advised = [], []
    monkeypatch.setattr(os, "posix_fadvise", lambda handle, offset, size, advice: advised.append(offset))
    real = os.open
    monkeypatch.setattr(shard_files.os, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    reader, rows = Reader(catalog), reading.np.arange(20)[::-1, None]
    order = reader.order(rows)
    assert advised == [int(catalog.frames["offset"][row]) for row in range(8)]  # of the first two shards
    for index in order:
        reader.read(int(rows[index, 0]))
    assert opened == list(catalog.shard_paths)
