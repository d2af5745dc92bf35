import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from trocar.cli.main import main
from trocar.runs.mlflow_follower import Follower, may_follow
from trocar.runs.mlflow_server import quiet_mlflow
from trocar.runs.run_folder import Run

quiet_mlflow()
mlflow = pytest.importorskip("mlflow")

TRAIN = """
import sys, time
from trocar.runs.mlflow_follower import Follower
from trocar.runs.run_folder import Run
run = Run.open(sys.argv[1], {"lr": 0.1})
follower = Follower.start(sys.argv[1], f"sqlite:///{sys.argv[2]}")
assert "mlflow" not in sys.modules
for step in range(1, 41):
    run.log(step, {"loss": 1 / step})
print(follower.process.pid, flush=True)
if sys.argv[3] == "hang":
    time.sleep(60)
run.finish("finished")
print(follower.stop(), flush=True)
"""


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def only_run(path):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("trocar")
    (found,) = client.search_runs([experiment.experiment_id]) if experiment else (None,)
    return client, found


def steps_in(path):
    client, found = only_run(path)
    return [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")]


def wait_for_end(pid):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the tracking process outlived the trainer")


@pytest.mark.slow
def test_a_finished_run_is_complete_in_mlflow_and_the_process_has_ended(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "m.db")
    args = [sys.executable, "-c", TRAIN, str(tmp_path / "r"), str(tmp_path / "m.db"), "end"]
    done = subprocess.run(args, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split()[1] == "True"
    assert steps_in(tmp_path / "m.db") == list(range(1, 41))
    assert only_run(tmp_path / "m.db")[1].info.status == "FINISHED"
    assert not (tmp_path / "r" / "tracking.log").exists()


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_trainer_leaves_a_complete_last_sync_and_no_process(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "m.db")
    args = [sys.executable, "-c", TRAIN, str(tmp_path / "r"), str(tmp_path / "m.db"), "hang"]
    trainer = subprocess.Popen(args, stdout=subprocess.PIPE)
    follower = int(trainer.stdout.readline())
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    wait_for_end(follower)
    assert steps_in(tmp_path / "m.db") == list(range(1, 41))
    assert only_run(tmp_path / "m.db")[1].info.status == "KILLED"


@pytest.mark.slow
def test_a_locked_database_is_retried_and_logged_without_stopping_anything(tmp_path, empty_database):
    import sqlite3

    shutil.copy(empty_database, tmp_path / "m.db")
    blocker = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    run = Run.open(tmp_path / "r", {})
    run.log(1, {"loss": 1.0})
    run.finish("finished")
    follower = Follower.start(tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    log = tmp_path / "r" / "tracking.log"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "database is locked" in log.read_text()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert follower.stop(60)
    assert steps_in(tmp_path / "m.db") == [1]
    assert "up to date again" in log.read_text()


def test_slurm_jobs_follow_servers_only():
    job = {"SLURM_JOB_ID": "1"}
    assert not may_follow("sqlite:////shared/mlflow.db", job)
    assert may_follow("https://mlflow.hospital", job)
    assert may_follow("sqlite:////shared/mlflow.db", {})


def test_in_a_slurm_job_without_a_server_training_goes_on_and_is_told_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    Run.open(tmp_path / "r", {})
    follower = Follower.start(tmp_path / "r", "sqlite:////x/mlflow.db")
    assert follower.process is None
    assert f"trocar track sync {tmp_path}/r" in follower.note
    assert follower.stop() is False


def test_tracking_can_be_turned_off(tmp_path):
    assert Follower.start(tmp_path, "none") == Follower(None)


def test_the_uri_of_the_tracking_process_is_not_in_its_argument_list(tmp_path, monkeypatch):
    seen = {}

    def record(command, env, **rest):
        seen.update(command=command, env=env)
        raise OSError("not started in this test")

    monkeypatch.setattr(subprocess, "Popen", record)
    follower = Follower.start(tmp_path, "https://ann:geheim@server")
    assert "not started" in follower.note
    assert not [word for word in seen["command"] if "geheim" in word]
    assert seen["env"]["TROCAR_TRACKING_URI"] == "https://ann:geheim@server"


def test_track_show_prints_the_last_rows(tmp_path, capsys):
    run = Run.open(tmp_path / "r", {})
    for step in (1, 2, 3):
        run.log(step, {"loss": step / 8, "[odd]": 1.0})
    assert main(["track", "show", str(tmp_path / "r"), "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert "running, attempt 1, 3 steps logged" in out.replace("\n", "")
    assert "0.375" in out
    assert "[odd]" in out
    assert "0.125" not in out


def test_track_sync_says_where_and_how_much(tmp_path, empty_database, capsys):
    shutil.copy(empty_database, tmp_path / "m.db")
    with Run.open(tmp_path / "r", {}) as run:
        run.log(1, {"loss": 1.0})
    assert main(["track", "sync", str(tmp_path / "r"), "--uri", f"sqlite:///{tmp_path}/m.db"]) == 0
    assert "FINISHED, 1 new values" in capsys.readouterr().out


def test_track_on_a_folder_that_is_no_run_exits_2_with_a_message(tmp_path, capsys):
    assert main(["track", "sync", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_parent_without_follow_is_a_bad_argument(tmp_path, capsys):
    assert main(["track", "sync", str(tmp_path), "--parent", "1"]) == 2
    assert "--follow" in capsys.readouterr().err
