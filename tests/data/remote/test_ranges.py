import os
import stat
import threading
from types import SimpleNamespace

import pytest
from store_factory import WebStore

from trocar.data.remote import ranges as module
from trocar.data.remote.ranges import Blocks, Ranges, blocks_of
from trocar.data.remote.store import RemoteStore
from trocar.errors import ConfigError

CONTENT = [os.urandom(50_000), os.urandom(30_000)]
NAMES = ["a.tar", "b.tar"]


@pytest.fixture
def web(tmp_path):
    (tmp_path / "web").mkdir()
    for name, content in zip(NAMES, CONTENT, strict=True):
        (tmp_path / "web" / name).write_bytes(content)
    with WebStore(tmp_path / "web") as web:
        yield web


def ranges_of(web, blocks=None):
    return Ranges(RemoteStore(web.address), NAMES, [len(content) for content in CONTENT], blocks)


def gets(web):
    return [asked for path, asked in web.asked if asked]


def test_what_is_announced_is_in_flight_at_once_and_asked_for_once(web):
    everyone = threading.Barrier(9)
    web.fault = lambda number, path: everyone.wait(10) and ""  # passes when eight requests and this test are there
    reader = ranges_of(web)
    wanted = [(0, 100 * k, 50) for k in range(8)]
    reader.announce(wanted)
    everyone.wait(10)
    web.fault = lambda number, path: ""
    for shard, offset, size in reversed(wanted):
        assert reader.read((shard, offset, size)) == CONTENT[shard][offset : offset + size]
    assert len(web.asked) == 8
    assert reader.read((1, 29_990, 50)) == CONTENT[1][29_990:]  # not announced, and over the end


def test_an_announcement_keeps_what_it_names_again_and_drops_the_rest(web):
    reader = ranges_of(web)
    first, second, third = (0, 0, 10), (0, 10, 10), (0, 20, 10)
    reader.announce([first, second])
    reader.announce([second, third])
    assert set(reader._coming) == {second, third}
    assert [reader.read(one) for one in (second, third)] == [CONTENT[0][10:20], CONTENT[0][20:30]]
    assert not reader._coming
    assert sorted(gets(web)).count("bytes=10-19") == 1


def test_neighbouring_frames_share_a_block_that_stays_on_the_disk(web, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4096)
    blocks = Blocks(tmp_path / "cache" / "c", 1 << 30)
    wanted = [(0, offset, 300) for offset in range(0, 20_000, 400)] + [(1, 29_800, 200)]
    for _ in range(2):  # the second time as another process would
        reader = ranges_of(web, blocks)
        reader.announce(wanted)
        for shard, offset, size in wanted:
            assert reader.read((shard, offset, size)) == CONTENT[shard][offset : offset + size]
    assert len(web.asked) == len(set(gets(web))) == 5 + 1
    assert stat.S_IMODE((tmp_path / "cache" / "c").stat().st_mode) == 0o700


def test_processes_that_need_the_same_block_fetch_it_once(web, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4096)
    web.fault = lambda number, path: 0.2
    readers = [ranges_of(web, Blocks(tmp_path / "cache", 1 << 30)) for _ in range(3)]
    for reader in readers:
        reader.announce([(0, 0, 100)])
    assert {reader.read((0, 0, 100)) for reader in readers} == {CONTENT[0][:100]}
    assert len(web.asked) == 1


def test_blocks_keep_to_their_limit_and_the_ones_used_last_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_EVERY", 1)
    monkeypatch.setattr(module, "BLOCK", 100)
    blocks = Blocks(tmp_path, 400)
    for number in range(6):
        assert blocks.put(f"0-{number}", bytes([number] * 100))
        os.utime(tmp_path / f"0-{number}", (number, number))
    assert blocks.has("0-3", 100)  # used just now
    assert blocks.put("0-6", bytes(100))
    kept = {path.name for path in tmp_path.iterdir() if path.name[0] != "."}
    assert {"0-3", "0-6"} <= kept
    assert len(kept) <= 4
    assert blocks.read("0-3", 10, 5) == bytes([3] * 5)
    assert blocks.read("0-0", 0, 100) is None
    assert not blocks.has("0-3", 99)


def test_a_disk_that_is_full_or_closed_is_no_end(web, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    reader = ranges_of(web, Blocks(tmp_path / "file" / "below", 1 << 30))
    assert reader.read((0, 5, 10)) == CONTENT[0][5:15]
    monkeypatch.setattr(module, "SPARE", 1 << 62)  # no disk has so much
    monkeypatch.setattr(module, "LOOK_EVERY", 1)
    reader = ranges_of(web, Blocks(tmp_path / "cache", 1 << 30))
    assert reader.read((0, 5, 10)) == CONTENT[0][5:15]
    assert reader.read((0, 900, 10)) == CONTENT[0][900:910]
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name[0] != "."]


def test_a_disk_that_fills_up_loses_old_blocks_and_goes_on_keeping_new_ones(tmp_path, monkeypatch):
    """Only so much fits: what is written beyond raises, as a full disk does."""
    whole = module.write_atomic

    def limited(path, data, **more):
        if sum(one.stat().st_size for one in tmp_path.iterdir()) + len(data) > 1000:
            raise OSError(28, "No space left on device")
        whole(path, data, **more)

    monkeypatch.setattr(module, "write_atomic", limited)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=module.SPARE + 100))
    blocks = Blocks(tmp_path, 1 << 30)
    for number in range(30):
        assert blocks.put(f"0-{number}", bytes(100))
        os.utime(tmp_path / f"0-{number}", (number, number))
    assert blocks.has("0-29", 100)


def test_blocks_are_the_users_alone(web, tmp_path):
    folder = tmp_path / "cache" / "c"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    reader = ranges_of(web, Blocks(folder, 1 << 30))
    assert reader.read((0, 5, 10)) == CONTENT[0][5:15]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "c").symlink_to(tmp_path)
    assert ranges_of(web, Blocks(tmp_path / "linked" / "c", 1 << 30)).read((0, 5, 10)) == CONTENT[0][5:15]
    assert not list(tmp_path.glob("0-*"))


def test_who_holds_a_block_and_stands_still_is_not_waited_for_long(web, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    blocks = Blocks(tmp_path / "cache", 1 << 30)
    with blocks.fetching("0-0"):  # as a process does that was suspended
        other = ranges_of(web, Blocks(tmp_path / "cache", 1 << 30))
        assert other.read((0, 5, 10)) == CONTENT[0][5:15]


def test_blocks_on_the_disk_take_no_memory(web, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4096)
    reader = ranges_of(web, Blocks(tmp_path / "cache", 1 << 30))
    wanted = [(0, offset, 300) for offset in range(0, 40_000, 400)]
    reader.announce(wanted)
    assert all(reader.read(one) == CONTENT[0][one[1] : one[1] + 300] for one in wanted)
    assert {future.result() for future in reader._coming.values()} == {None}


def test_the_folder_follows_the_jobs_variables_and_the_catalog(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    blocks = blocks_of("$SLURM_TMPDIR", "f" * 64, 0.5)
    assert blocks.folder == tmp_path / f"trocar-blocks-{os.getuid()}" / ("f" * 16)
    assert blocks.limit == 1 << 29
    monkeypatch.delenv("SLURM_TMPDIR")
    with pytest.raises(ConfigError, match=r"data\.cache_to = .*: not set on this machine"):
        blocks_of("$SLURM_TMPDIR", "f" * 64, 0.5)
