"""Killed at any moment, an ingest continues to the very bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ingest_clips import constant, make_clip

from trocar.data.catalog import Catalog
from trocar.data.ingest import pool
from trocar.data.ingest.record import Metadata
from trocar.data.ingest.settings import IngestSettings
from trocar.data.ingest.video import Job, Outcome

CLIPS = 30

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def command(source: Path, out: Path, workers: int) -> list[str]:
    options = ["--workers", str(workers), "--fps", "5", "--short-side", "32"]
    return [sys.executable, "-m", "trocar", "ingest", str(source), "--out", str(out), *options]


def start(source: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(source, out, workers),
        stderr=pipe,
        stdout=pipe,
        text=True,
        start_new_session=True,
        # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "ingest.lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "shards").is_dir() and len(list((out / "shards").glob("*.tar"))) >= count:
            return
        time.sleep(0.005)


def wait_for_end_of_group(group: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a worker is still there")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "v00.mp4", constant(25, 300), scale=2)
    for i in range(1, CLIPS):  # enough for any machine to be caught in the middle
        shutil.copy(folder / "v00.mp4", folder / f"v{i:02d}.mp4")
    return folder


def test_killed_and_repeated_gives_the_bytes_of_an_undisturbed_run(clips: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    subprocess.run(command(clips, whole, 1), check=True, capture_output=True)
    rng = random.Random(os.getpid())
    kills = 0
    for number in (1, 8, 16):
        process = start(clips, out, workers=2 if number == 8 else 1)
        wait_for_shards(out, number, process)
        time.sleep(rng.uniform(0, 0.1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate(timeout=60)
    assert kills >= 2
    assert not (out / "catalog" / "catalog.json").exists()
    subprocess.run(command(clips, out, 1), check=True, capture_output=True)
    assert tree(out) == tree(whole)


def test_ctrl_c_says_how_to_continue_and_leaves_no_worker(clips: Path, tmp_path: Path) -> None:
    process = start(clips, tmp_path / "out", workers=2)
    wait_for_shards(tmp_path / "out", 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    wait_for_end_of_group(process.pid)
    subprocess.run(command(clips, tmp_path / "out", 1), check=True, capture_output=True)
    assert len(Catalog.open(tmp_path / "out")) == CLIPS * 60


def test_workers_end_when_their_ingest_is_killed_alone(clips: Path, tmp_path: Path) -> None:
    process = start(clips, tmp_path / "out", workers=2)
    wait_for_shards(tmp_path / "out", 1, process)
    process.kill()
    process.communicate(timeout=60)
    wait_for_end_of_group(process.pid)


def crash_on_v1(job: Job) -> Outcome:
    """Stands in for a decoder that takes its process down."""
    if job.name == "v1":
        os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome(job.name, frames=1)


def test_a_video_that_kills_its_process_is_rejected_and_the_others_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    meta = Metadata("c", 1, "s")
    jobs = [Job(f"v{i}", tmp_path, f"v{i}.mp4", tmp_path, "", IngestSettings(), meta) for i in range(4)]
    monkeypatch.setattr(pool, "ingest", crash_on_v1)
    outcomes = {outcome.name: outcome for outcome in pool.run_jobs(jobs, workers=2)}
    assert sorted(outcomes) == ["v0", "v1", "v2", "v3"]
    assert [name for name, outcome in outcomes.items() if not outcome.finished] == ["v1"]
    assert outcomes["v1"].rejected[0].reason == "decoder crashed"
    assert (tmp_path / "videos" / "v1.rejected.json").is_file()
