import hashlib
import io
import json
import stat
import subprocess
import sys
import time

import pytest

from trocar.core.files import HashedFile, locked, write_atomic, write_json_atomic


def test_write_atomic_replaces_content_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "alt ü")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def refuse(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_files_are_readable_by_the_group_when_the_umask_allows_it(tmp_path):
    write_atomic(tmp_path / "plain", "")
    (tmp_path / "reference").touch()
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "reference").stat().st_mode)


def test_json_with_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomic(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


READER_SEES_WHOLE_FILES = """
import sys, json
from trocar.core.files import write_json_atomic
for n in range(200):
    write_json_atomic(sys.argv[1], {"n": n, "pad": "x" * 20000, "again": n}, sync=False)
"""


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"n": -1, "again": -1})
    writer = subprocess.Popen([sys.executable, "-c", READER_SEES_WHOLE_FILES, str(path)])
    seen = set()
    while writer.poll() is None:
        record = json.loads(path.read_text())
        assert record["n"] == record["again"]
        seen.add(record["n"])
    assert writer.returncode == 0
    assert json.loads(path.read_text())["n"] == 199
    assert len(seen) > 1


HOLD_LOCK = """
import sys, time
from trocar.core.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_its_lock_free(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    start = time.monotonic()
    with locked(path):
        assert time.monotonic() - start < 5


def test_a_file_is_hashed_as_it_is_written_and_can_be_ended_between_two_pieces():
    content, target, calls = bytes(range(256)) * 10_000, io.BytesIO(), []
    file = HashedFile(target, lambda: calls.append(len(target.getvalue())))
    assert file.write(b"first") == 5
    assert file.write(memoryview(content)) == len(content)
    assert target.getvalue() == b"first" + content
    assert file.sha256() == hashlib.sha256(b"first" + content).hexdigest()
    assert calls == [0, 5, 5 + (1 << 20), 5 + (2 << 20)]

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        HashedFile(target, stop).write(b"more")
    assert target.getvalue() == b"first" + content
