import multiprocessing

import pytest
from store_factory import WebStore

from trocar.data.remote import store as module
from trocar.data.remote.store import MissingError, RemoteStore, is_remote, located, place_of
from trocar.errors import ConfigError, TrocarError

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(module, "FIRST_LIMIT_S", 0.3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.tar").write_bytes(CONTENT)
    return tmp_path


def test_ranges_and_whole_files_come_as_they_are(folder, tmp_path):
    with WebStore(folder) as web:
        store = RemoteStore(web.address + "/")
        assert store.read("a/b.tar", 100, 300) == CONTENT[100:300]
        assert store.read("a/b.tar", len(CONTENT) - 5, len(CONTENT) + 50) == CONTENT[-5:]
        assert store.read("a/b.tar", 7, 7) == b""
        assert store.whole("a/b.tar") == CONTENT
        store.fetch("a/b.tar", tmp_path / "below" / "copy")
        assert (tmp_path / "below" / "copy").read_bytes() == CONTENT
        assert [path.name for path in (tmp_path / "below").iterdir()] == ["copy"]


def test_a_range_behind_the_end_is_empty_and_names_are_quoted(folder):
    (folder / "a" / "b#c d%20?.tar").write_bytes(b"0123")
    with WebStore(folder) as web:
        store = RemoteStore(web.address)
        assert store.read("a/b.tar", len(CONTENT), len(CONTENT) + 10) == b""
        assert store.read("a/b#c d%20?.tar", 1, 3) == b"12"


def test_the_version_of_a_file_changes_with_its_content(folder):
    with WebStore(folder) as web:
        for tagged in (True, False):
            web.tagged = tagged
            before = RemoteStore(web.address).version("a/b.tar")
            assert RemoteStore(web.address).version("a/b.tar") == before
            (folder / "a" / "b.tar").write_bytes(bytes(len(CONTENT)) if tagged else CONTENT)
            assert RemoteStore(web.address).version("a/b.tar") != before


@pytest.mark.parametrize("fault", ["503", "cut", 1.0], ids=["503", "cut", "hangs"])
def test_a_request_that_fails_is_made_again(folder, fault):
    with WebStore(folder, lambda number, path: fault if number in (1, 2) else "") as web:
        assert RemoteStore(web.address).read("a/b.tar", 0, 5000) == CONTENT[:5000]
        assert len(web.asked) == 3


def test_it_ends_after_a_number_of_attempts_and_says_what_was_last(folder):
    with WebStore(folder, lambda number, path: "503") as web:
        with pytest.raises(TrocarError, match=r"cannot read http.*/shards/a/b.tar after 7 attempts \(.*503.*reachable"):
            RemoteStore(web.address).read("a/b.tar", 0, 5)
        assert len(web.asked) == 7


def test_what_is_missing_or_refused_is_said_at_once(folder):
    with WebStore(folder, lambda number, path: "403") as web:
        with pytest.raises(MissingError, match=r"a/c\.tar is missing; copy it there again"):
            RemoteStore(web.address).read("a/c.tar", 0, 5)
        with pytest.raises(TrocarError, match=r"refuses it .*credentials"):
            RemoteStore(web.address).read("a/b.tar", 0, 5)
        assert len(web.asked) == 2


def test_a_server_without_ranges_is_refused(folder):
    said = "10240 bytes where 5 were asked for; it has to serve byte ranges"
    with WebStore(folder, lambda number, path: "whole") as web, pytest.raises(TrocarError, match=said):
        RemoteStore(web.address).read("a/b.tar", 0, 5)


def test_a_forked_process_reads_by_connections_of_its_own(folder):
    with WebStore(folder) as web:
        store = RemoteStore(web.address)
        assert store.read("a/b.tar", 0, 5) == CONTENT[:5]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(store.read, ("a/b.tar", 3, 8)).get(20) == CONTENT[3:8]
        assert store.read("a/b.tar", 1, 4) == CONTENT[1:4]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://jane:secret@store/shards", r"https://\*\*\*@store/shards: .* may hold no credentials"),
        ("https://store/shards?X-Amz-Signature=abc", r"Signature=\*\*\*: .* no query"),
    ],
)
def test_an_address_holds_no_credentials(address, said):
    with pytest.raises(ConfigError, match=said) as error:
        RemoteStore(address)
    assert "secret" not in str(error.value)
    assert "abc" not in str(error.value)


def test_an_unknown_kind_of_store_is_said():
    with pytest.raises(ConfigError, match="s4:// is no kind of store; there are s3://"):
        RemoteStore("s4://bucket").read("a", 0, 1)


def test_folders_and_addresses_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_remote("s3://bucket/shards")
    assert not is_remote("shards")
    assert not is_remote("C:/shards")
    assert place_of("s3://bucket/a") == "s3://bucket/a"
    assert place_of("shards") == tmp_path.__class__("shards")
    assert located("s3://bucket/a") == "s3://bucket/a"
    assert located(place_of("shards")) == str(tmp_path / "shards")
