"""On a real SLURM: the arms of a sweep as an array, each on two tasks, and the table by the job behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from data_factory import make_catalog
from probe_factory import make_probed, probed_run
from slurm_factory import ask, until, write_profile

from trocar.slurm.graph import Graph
from trocar.slurm.job_states import JobState

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def settled(sweep: Path) -> dict[str, str]:
    """The state of each job of a sweep, once all have ended."""

    def now() -> dict[str, JobState] | None:
        states = Graph.load(sweep).states()
        return None if any(state.is_active for state in states.values()) else states

    return {name: state.state for name, state in until("all jobs have ended", now, limit_s=400).items()}


def test_an_array_of_arms_ends_in_the_table_of_one_machine_and_submits_again_what_was_cancelled(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", 2, 8)
    make_probed(tmp_path / "labels", seed=3)
    probe = {"name": "tools", "data": str(tmp_path / "labels"), "task": "tools", "protocol": "knn", "frames": 24}
    config = probed_run(tmp_path / "shards", tmp_path / "jobs", probe=[probe])
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    profile = write_profile(tmp_path, tasks_per_node=2, cpus_per_task=1, environment=ONE_THREAD)

    def sweep(*more: str) -> str:
        words = ["pretrain", "config.yaml", "--sweep", "optim.lr=0.001,5e-2,1e30", "train.steps=4", *more]
        command = [sys.executable, "-m", "trocar", *words, "train.max_skipped=0"]
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    out = tmp_path / "jobs" / "sweep"
    sweep("--slurm", profile, "--slurm-set", "extra={hold: true}")
    first = Graph.load(out).jobs
    ask("scancel", first["optim.lr=5e-2"])
    ask("scontrol", "release", *sorted({job.partition("_")[0] for job in first.values()}))
    assert settled(out) == {
        "optim.lr=0.001": "COMPLETED",
        "optim.lr=5e-2": "CANCELLED",
        "optim.lr=1e30": "FAILED",
        "table": "FAILED",
    }
    assert not (out / "chosen.yaml").exists()

    assert "1 of 3 arms to run, then the table is written: optim.lr=5e-2" in sweep("--slurm", profile)
    assert settled(out)["table"] == "COMPLETED"
    second = Graph.load(out).jobs
    assert {name for name, job in second.items() if job != first[name]} == {"optim.lr=5e-2", "table"}
    assert ranks_of(out / "optim.lr=5e-2") == 2
    by_jobs = json.loads((out / "sweep.json").read_text())
    assert "train.max_skipped = 0" in by_jobs["arms"][2]["failed"]
    sweep("run.out=here", "run.ranks=2")
    here = json.loads((tmp_path / "here/sweep/sweep.json").read_text())
    assert here["chosen"] == by_jobs["chosen"]
    for one, other in zip(here["arms"], by_jobs["arms"], strict=True):
        assert [one[key] for key in ("value", "gain", "to_chosen")] == [
            other[key] for key in ("value", "gain", "to_chosen")
        ]


def ranks_of(run: Path) -> int:
    """How many ranks had trained when a run wrote its last checkpoint."""
    manifest = sorted((run / "checkpoints").glob("step-*/manifest.json"))[-1]
    return int(json.loads(manifest.read_text())["environment"]["ranks"])
