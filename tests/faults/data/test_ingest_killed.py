"""Killed at any moment, an ingest continues to the very bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from fault_record import Injector
from ingest_process import (
    decoders,
    dies_at,
    file_events,
    start,
    tree,
    wait_for_end_of_group,
    wait_for_shards,
    whole,
)

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest import jobs
from trocar.data.ingest.framing import IngestSettings
from trocar.data.ingest.record import Metadata
from trocar.data.ingest.video import Job, JobOutcome
from trocar.errors import ConfigError

CONTINUES = "the same command ends in the bytes of an undisturbed run"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["SIGKILL", "SIGTERM"])
def test_killed_and_repeated_gives_the_bytes_of_an_undisturbed_run(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path, fault: str, seed: int
) -> None:
    rng = random.Random(seed)
    videos, delay, workers = rng.randrange(len(list(clips.iterdir()))), rng.uniform(0, 0.05), 1 + seed % 2
    with inject(fault, "ingest", CONTINUES, seed=seed, at=f"{videos} videos and {delay:.3f} s") as injection:
        process = start(clips, tmp_path, workers)
        wait_for_shards(tmp_path, videos, process)
        time.sleep(delay)
        # Alone: its workers have to notice by themselves.
        process.send_signal(getattr(signal, fault))
        process.communicate(timeout=60)
        assert process.returncode == -getattr(signal, fault)
        wait_for_end_of_group(process.pid)
        with pytest.raises(ConfigError, match="no catalog here"):
            Catalog.open(tmp_path)
        whole(clips, tmp_path, workers)
        injection.compare(undisturbed, tree(tmp_path))


def test_killed_between_any_two_changes_of_files_it_continues(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    events = file_events(clips, tmp_path / "counted")
    assert tree(tmp_path / "counted") == undisturbed
    # The last few are the catalog's: renamed one by one, its header at the end.
    chosen = [
        *random.Random(7).sample(range(2, events - 12), 3),
        *random.Random(8).sample(range(events - 12, events), 3),
    ]
    for event in chosen:
        out = tmp_path / str(event)
        with inject("SIGKILL", "ingest", CONTINUES, seed=7, at=f"file event {event} of {events}") as injection:
            assert dies_at(clips, out, event).returncode == -signal.SIGKILL
            whole(clips, out)
            injection.compare(undisturbed, tree(out))


@pytest.mark.parametrize("seed", range(3))
def test_the_end_of_a_worker_is_not_the_end_of_its_ingest(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    fault, videos = rng.choice(["SIGKILL", "SIGTERM"]), rng.randrange(len(list(clips.iterdir())) // 2)
    promise = "the same run goes on and ends in the bytes of an undisturbed one"
    with inject(fault, "ingest worker", promise, seed=seed, at=f"{videos} videos") as injection:
        process = start(clips, tmp_path, workers=2)
        wait_for_shards(tmp_path, videos, process)
        while not (workers := decoders(process)):
            time.sleep(0.01)
        rng.choice(workers).send_signal(getattr(signal, fault))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        injection.compare(undisturbed, tree(tmp_path))


def test_ctrl_c_says_how_to_continue_and_leaves_no_worker(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with inject("SIGINT", "ingest", f"{CONTINUES}; it says so", at="1 video") as injection:
        process = start(clips, tmp_path, workers=2)
        wait_for_shards(tmp_path, 1, process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the same command continues" in errors
        assert "Traceback" not in errors
        wait_for_end_of_group(process.pid)
        whole(clips, tmp_path)
        injection.compare(undisturbed, tree(tmp_path))


def crash_on_v1(job: Job) -> JobOutcome:
    """Stands in for a decoder that takes its process down."""
    if job.name == "v1":
        os.kill(os.getpid(), signal.SIGSEGV)
    return JobOutcome(job.name, frames=1)


def test_a_video_that_kills_its_process_is_rejected_and_the_others_done(
    inject: Injector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "videos").mkdir()
    meta = Metadata("c", 1, "s")
    four = [Job(f"v{i}", tmp_path, f"v{i}.mp4", tmp_path, "", IngestSettings(), meta) for i in range(4)]
    monkeypatch.setattr(jobs, "_run", crash_on_v1)
    with inject("SIGSEGV", "ingest worker", "its video is rejected, the others are done", at="video v1") as injection:
        outcomes = {outcome.name: outcome for outcome in jobs.run_jobs(four, workers=2)}
        assert outcomes["v1"].rejected[0].reason == "decoder crashed"
        assert (tmp_path / "videos" / "v1.rejected.json").is_file()
        finished = {name: outcome.finished for name, outcome in outcomes.items()}
        injection.compare({"v0": True, "v1": False, "v2": True, "v3": True}, finished)
