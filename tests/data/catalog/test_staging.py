import errno
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from data_factory import make_catalog

from trocar.data.loading import shard_files
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.errors import ConfigError


@pytest.fixture
def catalog(tmp_path):
    return make_catalog(tmp_path / "shards", 4, 8, hospitals=("north", "south"))


@pytest.fixture
def north(catalog):
    """Half of the videos."""
    return Composition(include=[{"hospital": ["north"]}], curate="none").resolve(catalog, None)


def copied(catalog, selection, target, **more):
    said = []
    shard_files.copy(catalog, list(shard_files.shards_of(catalog, selection)), target, said.append, **more)
    return shard_files.present(catalog, target), said


def test_only_shards_of_the_selection_are_copied_and_read_the_same(catalog, north, tmp_path):
    staged, said = copied(catalog, north, tmp_path / "disk", spare=0)
    assert sorted(staged) == [0, 2]
    assert [line.split(",")[0] for line in said] == ["staging 2 shards", "staged 2 shards"]
    for row in range(len(catalog)):
        assert Reader(catalog, staged=staged).read(row) == Reader(catalog).read(row)
    for path in (catalog.shard_paths[0], catalog.shard_paths[2]):
        path.unlink()
    assert Reader(catalog, staged=staged).read(0)  # from the copy alone


def test_what_is_there_already_is_not_copied_again(catalog, north, tmp_path):
    copied(catalog, north, tmp_path / "disk", spare=0)
    torn = tmp_path / "disk" / catalog.shard_paths[2].name
    torn.write_bytes(torn.read_bytes()[:-1])
    staged, said = copied(catalog, north, tmp_path / "disk", spare=0)
    assert "staged 1 shards" in said[-1]
    assert staged[2].read_bytes() == catalog.shard_paths[2].read_bytes()


def test_several_shards_are_copied_at_once_and_one_that_fails_leaves_no_part(catalog, tmp_path, monkeypatch):
    everything = Composition(curate="none").resolve(catalog, None)
    both, whole = threading.Barrier(2), shard_files.shutil.copyfile

    def together(source, target):
        both.wait(10)  # a copy that waited for the one before would break it
        whole(source, target)
        if source == catalog.shard_paths[2]:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(shard_files.shutil, "copyfile", together)
    staged, said = copied(catalog, everything, tmp_path / "disk", spare=0)
    assert len(catalog.shard_paths) == 4
    assert 2 not in staged
    assert "No space left on device; reading shards in place" in said[-1]
    assert not list((tmp_path / "disk").glob(".*.tmp"))
    for row in range(len(catalog)):
        assert Reader(catalog, staged=staged).read(row) == Reader(catalog).read(row)


def test_shards_that_do_not_fit_are_read_where_they_are(catalog, north, tmp_path):
    staged, said = copied(catalog, north, tmp_path / "disk", spare=1 << 60)
    assert staged == {}
    assert "not staged" in said[0]
    assert "reading them in place" in said[0]


def test_those_that_are_read_first_are_copied_where_there_is_no_room_for_all(catalog, tmp_path, monkeypatch):
    room = catalog.shard_bytes[3] + catalog.shard_bytes[1]
    monkeypatch.setattr(shard_files.shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    said = []
    shard_files.copy(catalog, [3, 1, 0, 2], tmp_path / "disk", said.append, spare=0)
    assert sorted(shard_files.present(catalog, tmp_path / "disk")) == [1, 3]
    assert said[0].startswith("the 2 read first staged: ")
    assert "reading the others in place" in said[0]
    assert said[-1].startswith("staged 2 shards")


def test_a_stop_leaves_it_at_what_is_there(catalog, tmp_path, monkeypatch):
    asked, go = [], threading.Event()

    def hanging(source, target):
        assert go.wait(20)  # a file server that gives nothing
        raise OSError(errno.EIO, "Input/output error", str(target))

    monkeypatch.setattr(shard_files, "ASK_S", 0.01)
    monkeypatch.setattr(shard_files.shutil, "copyfile", hanging)

    def stop():
        asked.append(1)
        if len(asked) == 3:
            go.set()
        return len(asked) == 3

    said = []
    shard_files.copy(catalog, [0, 1], tmp_path / "disk", said.append, spare=0, stop=stop)
    assert said[-1] == "staging was stopped; what is there is kept"
    assert shard_files.present(catalog, tmp_path / "disk") == {}


def test_the_shards_of_the_steps_to_come_are_first_and_those_of_no_step_stay_away(catalog, monkeypatch):
    plan = Plan(Composition(curate="none").resolve(catalog, None), 8, 0, "window")
    shard = catalog.frames["shard"]
    for steps in (range(2, 3), range(1, 4)):
        used = [int(shard[row]) for step in steps for row in plan.rows(step)[:4]]
        assert shard_files.in_order_of_use(catalog, plan, np.arange(4), steps) == list(dict.fromkeys(used))
    monkeypatch.setattr(shard_files, "SCANNED", 1)
    first = list(dict.fromkeys(int(shard[row]) for row in plan.rows(0)[:1]))
    others = [number for number in range(4) if number not in first]
    assert shard_files.in_order_of_use(catalog, plan, np.arange(1), range(2)) == first + others


def test_a_folder_that_cannot_be_written_is_no_end(catalog, north, tmp_path):
    (tmp_path / "disk").touch()
    staged, said = copied(catalog, north, tmp_path / "disk" / "below")
    assert staged == {}
    assert "not staged" in said[0]


def test_the_place_follows_the_jobs_variables_and_the_catalog(catalog, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    assert shard_files.place("$SLURM_TMPDIR/x", catalog).parent == tmp_path / "x"
    monkeypatch.delenv("SLURM_TMPDIR")
    with pytest.raises(ConfigError, match="not set on this machine"):
        shard_files.place("$SLURM_TMPDIR/x", catalog)
