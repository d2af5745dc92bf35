"""Submission without a cluster: what is frozen, what is printed, and submitit's local executor."""

from __future__ import annotations

import os
import pickle
import signal

import pytest
import yaml
from slurm_factory import only_job, until, until_step, write_config

from trocar.cli.main import main
from trocar.core.config import load
from trocar.core.resources import is_running
from trocar.runs.run_folder import read_metrics, read_record
from trocar.slurm import job_states
from trocar.slurm.job_states import states, submitted_for, submitted_from
from trocar.slurm.remote_call import Call
from trocar.ssl.run.pretrain_config import PretrainConfig


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    for job in submitted_from(tmp_path):  # a failed test leaves none running
        if is_running(int(job.job), job.started):
            os.kill(int(job.job), signal.SIGTERM)


def test_a_dry_run_prints_the_script_and_writes_nothing(shards, tmp_path, capsys):
    config = write_config(shards, tmp_path / "run", 8)
    assert main(["pretrain", str(config), "--slurm", "gpu", "--slurm-set", "partition=a100", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#!/bin/bash\n")
    assert "#SBATCH --partition=a100\n" in said
    assert f"{tmp_path}/run/slurm/%j_0_log.err" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_an_ingests_dry_run_prints_array_and_merge(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    for name in "abc":
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"x")
    assert main(["ingest", "clips", "--out", "shards", "--slurm", "cpu", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-2%32" in said
    assert "#SBATCH --dependency=afterany:a0" in said
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slurm", "nonesuch"], "no profile in the box"),
        (["--slurm", "gpu", "--slurm-set", "gpu_per_node=2"], "did you mean 'gpus_per_node'"),
        (
            ["--slurm", "gpu", "--slurm-set", "gpus_per_node=3"],
            "does not divide by the profile's ranks x accumulate = 3",
        ),
        (["--slurm-set", "nodes=2"], "it needs --slurm"),
        (["--slurm", "gpu", "tracking.uri=https://user:secret@host"], "TROCAR_TRACKING_URI"),
        (["--slurm", "gpu", "data.catalog=nowhere"], "no catalog here"),
    ],
)
def test_what_is_wrong_is_said_before_it_waits_in_a_queue(shards, tmp_path, words, message, capsys):
    config = write_config(shards, tmp_path / "run", 8)
    assert main(["pretrain", str(config), *words, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "secret" not in said


def test_without_sbatch_the_local_profile_is_named(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["pretrain", str(write_config(shards, tmp_path / "run", 8)), "--slurm", "gpu"]) == 2
    assert "--slurm local" in capsys.readouterr().err


def test_what_is_submitted_are_words_and_the_frozen_configuration(shards, tmp_path):
    call = Call(("pretrain", "x.yaml"), "/folder", "/here", 1.0, run="/run")
    assert len(pickle.dumps(call)) < 500
    config = write_config(shards, tmp_path / "run", 8)
    from trocar.slurm.submit import frozen

    path, text = frozen(tmp_path / "run", "pretrain", config, ["train.steps=5"], {"data.stage_to": "$SLURM_TMPDIR"})
    path.parent.mkdir(parents=True)
    path.write_text(text)
    frozen_config = load(PretrainConfig, path)
    assert frozen_config.train.steps == 5
    assert frozen_config.data.stage_to == "$SLURM_TMPDIR"
    typed = load(PretrainConfig, config, ["train.steps=5"])
    assert frozen_config.recipe() == typed.recipe()


@pytest.mark.slow
@pytest.mark.faults
def test_the_local_profile_trains_on_several_ranks_comes_back_after_usr2_and_ends_after_sigterm(
    shards, tmp_path, capsys
):
    out = tmp_path / "run"
    config = write_config(shards, out, 3000)
    assert main(["pretrain", str(config), "--slurm", "local", "--slurm-set", "tasks_per_node=2"]) == 0
    job = only_job(out)
    assert f"tail -F {job.log()}" in capsys.readouterr().out
    until_step(out, 3)
    assert states([job])[job.job].state == "RUNNING"
    # a second one for the same folder
    assert main(["pretrain", str(config), "--slurm", "local"]) == 2
    assert f"trocar jobs cancel {job.job}" in capsys.readouterr().err
    rank_0 = job_states.read(tmp_path / "run/slurm", job.job)[0]["pid"]
    os.kill(rank_0, signal.SIGUSR2)
    until_step(out, 6, attempt=2)
    assert main(["jobs"]) == 0
    table = capsys.readouterr().out
    assert "RUNNING" in table
    assert "/3000" in table
    assert main(["jobs", "cancel", job.job]) == 0
    until("the job has ended", lambda: not states([job])[job.job].is_active)
    assert [e["event"] for e in job_states.read(tmp_path / "run/slurm", job.job)] == ["start", "end", "start", "end"]
    rows = read_metrics(out)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert read_record(out)["slurm"]["requeues"] == 1
    # the same words again go on
    steps = rows[-1]["step"]
    short = tmp_path / "run/slurm" / job.words[1].rpartition("/")[2]
    tree = yaml.safe_load(short.read_text())
    assert tree["train"]["steps"] == 3000
    assert main(["jobs", "resubmit", str(out)]) == 0
    until_step(out, steps + 2, attempt=3)
    assert main(["jobs", "cancel", str(out)]) == 0
    until("both have ended", lambda: not any(s.is_active for s in states(submitted_for(out)).values()))


def test_a_dry_run_without_a_profile_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", ".", "--out", "shards", "--dry-run"]) == 2
    assert "--dry-run prints the script of a job: it needs --slurm" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
