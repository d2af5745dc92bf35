"""Processes that rank 0 starts beside itself: their failure is told, and none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trocar.errors import TrocarError
from trocar.ssl.ranks import rendezvous
from trocar.ssl.ranks.rendezvous import Meeting, helpers, port_store

Started = list["subprocess.Popen[bytes]"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What `helpers` starts: a program in place of Trocar, which needs seconds to begin."""
    found: Started = []

    def start(arguments: list[str], *_: object) -> subprocess.Popen[bytes]:
        found.append(subprocess.Popen([sys.executable, "-c", *arguments], start_new_session=True))
        return found[-1]

    monkeypatch.setattr(rendezvous, "_start", start)
    return found


def until_raised(check: Callable[[], None], fault: Callable[[], object] = lambda: None) -> None:
    fault()
    for _ in range(100):
        check()
        time.sleep(0.05)


def test_a_rank_that_was_killed_is_named_and_the_others_are_ended(started: Started, tmp_path: Path) -> None:
    with (
        pytest.raises(TrocarError, match=r"rank 2 of 3 was killed by signal 9 .*the same command goes on with"),
        helpers(["import time; time.sleep(60)"], 3, tmp_path / "store") as check,
    ):
        until_raised(check, started[1].kill)
    assert [process.poll() for process in started] == [-signal.SIGTERM, -signal.SIGKILL]


def test_a_rank_that_fails_is_named_with_its_exit_code(started: Started, tmp_path: Path) -> None:
    with (
        pytest.raises(TrocarError, match="rank 1 of 2 ended with exit code 3"),
        helpers(["raise SystemExit(3)"], 2, tmp_path / "store") as check,
    ):
        until_raised(check)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whatever_stops_rank_0_ends_the_ranks_it_started(
    started: Started, tmp_path: Path, stop: type[BaseException]
) -> None:
    with pytest.raises(stop), helpers(["import time; time.sleep(60)"], 3, tmp_path / "store"):
        raise stop
    assert [process.poll() for process in started] == [-signal.SIGTERM] * 2


def test_ranks_that_have_done_all_end_by_themselves(started: Started, tmp_path: Path) -> None:
    with helpers(["import time; time.sleep(0.2)"], 2, tmp_path / "store"):
        pass
    assert started[0].poll() == 0


def test_a_rank_ends_soon_after_a_parent_that_nothing_could_catch(tmp_path: Path) -> None:
    watching = "import os, time; from trocar.ssl.ranks.rendezvous import end_with; end_with(os.getppid())"
    child = f"{watching}; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while _runs(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc").is_dir()


def test_who_waits_is_told_which_rank_has_failed(tmp_path: Path) -> None:
    store = port_store(tmp_path / "meet.json", 0, 2)
    Meeting(store, 1, 2).fail()
    with pytest.raises(TrocarError, match="rank 1 of 2 has ended with an error; its own message says why"):
        Meeting(store, 0, 2).wait("place", 30)


def test_who_works_on_is_told_that_rank_0_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "meet.json"
    kept_by_rank_0 = port_store(file, 0, 2)
    meeting = Meeting(port_store(file, 1, 2), 1, 2)
    meeting.refuse_failed()
    del kept_by_rank_0
    with pytest.raises(TrocarError, match="rank 0 has ended while this one worked"):
        until_raised(meeting.refuse_failed)
