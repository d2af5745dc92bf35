"""On a real SLURM: several nodes, preemption, the time limit, a node that dies; the run ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from run_factory import assert_identical
from slurm_factory import (
    ask,
    node_pids,
    only_job,
    rank_pids,
    state,
    until,
    until_state,
    until_step,
    wake_when_asked,
    write_config,
    write_profile,
)

from trocar.cli.main import main
from trocar.runs.run_folder import read_metrics, read_record
from trocar.slurm import job_states
from trocar.ssl.engine import checkpoint

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

STEPS = 60
TWO_BY_TWO = {"partition": "grace", "nodes": 2, "tasks_per_node": 2}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def submit(shards: Path, out: Path, steps: int = STEPS, **profile: object) -> str:
    config = write_config(shards, out, steps)
    profile_file = write_profile(out.parent, **{**TWO_BY_TWO, **profile})
    assert main(["pretrain", str(config), "--slurm", profile_file]) == 0
    return only_job(out).job


@pytest.fixture(scope="module")
def undisturbed(cluster, shards, tmp_path_factory):
    """The run on 2 nodes x 2 tasks that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(out.parent)
        job = submit(shards, out)
    until_state(job, "COMPLETED", limit_s=400)
    return out


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    """The same run in one process, outside of SLURM."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "trocar", "pretrain", str(write_config(shards, out, STEPS))]
    assert subprocess.call(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) == 0
    return out


def test_two_nodes_of_two_tasks_reach_the_loss_of_one_process(undisturbed, alone):
    assert only_job(undisturbed).profile["nodes"] == 2
    assert read_record(undisturbed)["slurm"]["requeues"] == 0
    one, together = read_metrics(alone), read_metrics(undisturbed)
    assert [row["step"] for row in together] == [row["step"] for row in one] == list(range(STEPS))
    # the first steps differ by the order of summation alone; training lets that grow
    for a, b in zip(one[:12], together[:12], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
    assert one[-1]["loss"] == pytest.approx(together[-1]["loss"], rel=2e-2)


def test_preempted_twice_and_out_of_time_once_a_run_ends_in_the_same_bits(undisturbed, shards, tmp_path):
    out = tmp_path / "run"
    job = submit(shards, out)
    for life, step in ((1, 5), (2, 15)):
        until_step(out, step, attempt=life)
        urgent = ask("sbatch", "--parsable", "-p", "high", "-N", "4", "--exclusive", "--wrap", "sleep 1")
        until_state(job, "PENDING")
        until_state(urgent, "COMPLETED")
    # SLURM looks at time limits every 30 s, and less is left than --signal asks for. The run must not end before.
    until_step(out, 25, attempt=3)
    ranks = rank_pids(job)
    assert len(ranks) == 4
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    ask("scontrol", "update", f"jobid={job}", "TimeLimit=2")
    until("SLURM has asked it to save", lambda: wake_when_asked(ranks) or state(job) == "PENDING")
    until_state(job, "PENDING")
    ask("scontrol", "update", f"jobid={job}", "TimeLimit=10")
    until_state(job, "COMPLETED", limit_s=400)
    assert_identical(out, undisturbed, STEPS, resumed_after=26)
    events = job_states.read(Path(only_job(out).folder), job)
    assert [event["restart"] for event in events if event["event"] == "start"] == [0, 1, 2, 3]
    told = read_record(out)["slurm"]
    assert (told["job"], told["requeues"]) == (job, 3)
    assert told["waiting_s"] > 3 * 5  # a requeued job waits cred_expire, 5 s here
    assert told["running_s"] > 0
    # submitit has written no result for the lives that were cut short, and every rank left its own
    assert len(list((out / "slurm").glob("*_result.pkl"))) == 4


def test_a_cancelled_run_saves_and_stays_cancelled(shards, tmp_path):
    out = tmp_path / "run"
    job = submit(shards, out, 4000, nodes=1, tasks_per_node=1)
    until_step(out, 4)
    ask("scancel", job)
    until_state(job, "CANCELLED")
    newest = checkpoint.steps(out)[-1]
    assert newest > 4
    assert checkpoint.verify(checkpoint.path_of(out, newest)) is None
    time.sleep(8)  # longer than a requeued job waits
    assert state(job) == "CANCELLED"
    assert read_record(out)["status"] == "killed"
    assert not list((out / "slurm").glob("*_result.pkl"))


def test_a_run_preempted_by_sigterm_without_grace_ends_in_the_same_bits(alone, shards, tmp_path):
    out = tmp_path / "run"
    job = submit(shards, out, partition="preemptable", nodes=1, tasks_per_node=1)
    until_step(out, 7)
    urgent = ask("sbatch", "--parsable", "-p", "high", "-N", "4", "--exclusive", "--wrap", "sleep 1")
    until_state(job, "PENDING")
    until_state(urgent, "COMPLETED")
    until_state(job, "COMPLETED", limit_s=400)
    assert_identical(out, alone, STEPS, resumed_after=3)  # step 6 may not have been published yet


def test_a_job_whose_node_dies_goes_on_elsewhere(alone, shards, tmp_path):
    out = tmp_path / "run"
    job = submit(shards, out, nodes=1, tasks_per_node=1)
    until_step(out, 7)
    node = ask("squeue", "-h", "-j", job, "-o", "%N")
    for pid in node_pids(node):
        with suppress(ProcessLookupError):  # a daemon's child that ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)
    # what SLURM finds out by itself after SlurmdTimeout
    ask("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")
    until_state(job, "COMPLETED", limit_s=240)
    assert ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%N") != node
    saved = checkpoint.steps(out)
    assert saved
    assert all(checkpoint.verify(checkpoint.path_of(out, step)) is None for step in saved)
    assert not list((out / "checkpoints").glob("damaged-*"))
    assert_identical(out, alone, STEPS, resumed_after=3)  # step 6 may not have been published yet
    until("the node is back", lambda: _revived(node))


def test_a_finished_run_that_slurm_starts_again_returns_at_once(undisturbed):
    job = only_job(undisturbed).job
    before = (undisturbed / "finished.json").stat().st_mtime_ns
    ask("scontrol", "requeue", job)
    until_state(job, "PENDING", "RUNNING")
    until_state(job, "COMPLETED")
    assert (undisturbed / "finished.json").stat().st_mtime_ns == before
    assert read_record(undisturbed)["attempt"] == 1
    assert "is finished" in only_job(undisturbed).log().read_text()


def _revived(node: str) -> bool:
    subprocess.run(["bash", str(Path(__file__).parent / "cluster-up.sh")], check=True, capture_output=True)
    return ask("sinfo", "-h", "-n", node, "-o", "%T").startswith(("idle", "mix", "alloc", "compl"))
