import json
import math
import os
import shutil

import pytest

from trocar.errors import TrocarError
from trocar.runs.mlflow_server import quiet_mlflow, resolve_uri
from trocar.runs.mlflow_sync import STATE, flatten, sync
from trocar.runs.run_folder import Run, read_record, update_record

quiet_mlflow()
mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def runs(tmp_path, empty_database, monkeypatch):
    for name in ("TROCAR_TRACKING_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    return tmp_path / "runs"


@pytest.fixture
def client(runs):
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")


def history(client, run_id, key):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def log_steps(run, steps):
    for step in steps:
        run.log(step, {"loss": 1 / (step + run.attempt)})


def test_a_sync_brings_params_metrics_times_and_status(runs, client):
    with Run.open(runs / "r", {"lr": 0.1, "model": {"name": "vit", "sizes": [1, 2]}}) as run:
        run.log(5, {"loss": 0.1 + 0.2, "lr": 1e-300})
        run.log(10, {"loss": -1.5})
    result = sync(runs / "r")
    found = client.get_run(result.mlflow_run_id)
    assert found.data.params == {"lr": "0.1", "model.name": "vit", "model.sizes": "[1, 2]"}
    assert history(client, result.mlflow_run_id, "loss") == [(5, 0.1 + 0.2), (10, -1.5)]
    assert history(client, result.mlflow_run_id, "lr") == [(5, 1e-300)]
    assert found.info.status == "FINISHED"
    assert found.data.tags["trocar.run_id"] == run.run_id
    assert client.get_experiment(found.info.experiment_id).name == "trocar"
    line = json.loads((runs / "r" / "metrics" / "0001.jsonl").read_text().splitlines()[0])
    assert client.get_metric_history(result.mlflow_run_id, "loss")[0].timestamp == int(line["time"] * 1000)
    assert read_record(runs / "r")["mlflow_run_id"] == result.mlflow_run_id


def test_syncing_twice_logs_nothing_twice_and_only_news_afterwards(runs, client):
    run = Run.open(runs / "r", {})
    log_steps(run, [1, 2])
    assert sync(runs / "r").new_values == 2
    assert sync(runs / "r").new_values == 0
    log_steps(run, [3])
    run.log(3, {"knn": 0.5})
    result = sync(runs / "r")
    assert result.new_values == 2
    assert [step for step, _ in history(client, result.mlflow_run_id, "loss")] == [1, 2, 3]


def test_a_metric_that_comes_later_for_a_synced_step_still_arrives(runs, client):
    run = Run.open(runs / "r", {})
    run.log(3, {"loss": 1.0})
    sync(runs / "r")
    run.log(3, {"knn": 0.5})
    assert history(client, sync(runs / "r").mlflow_run_id, "knn") == [(3, 0.5)]


def test_attempts_share_one_mlflow_run_and_repeated_steps_stay_single(runs, client):
    first = Run.open(runs / "r", {"lr": 0.1})
    log_steps(first, [1, 2, 3])
    first.finish("killed")
    one = sync(runs / "r")
    assert one.status == "KILLED"
    second = Run.open(runs / "r", {"lr": 0.1})
    log_steps(second, [2, 3, 4])
    two = sync(runs / "r")
    assert (two.mlflow_run_id, two.status, two.new_values) == (one.mlflow_run_id, "RUNNING", 1)
    assert history(client, two.mlflow_run_id, "loss") == [(1, 1 / 2), (2, 1 / 3), (3, 1 / 4), (4, 1 / 6)]
    second.finish("failed")
    assert sync(runs / "r").status == "FAILED"
    assert client.get_run(two.mlflow_run_id).info.status == "FAILED"


def test_a_lost_mlflow_run_id_and_state_are_found_again_by_tag(runs, client):
    run = Run.open(runs / "r", {"lr": 0.1})
    log_steps(run, [1, 2])
    before = sync(runs / "r").mlflow_run_id
    (runs / "r" / STATE).unlink()
    update_record(runs / "r", mlflow_run_id="")
    log_steps(run, [3])
    after = sync(runs / "r")
    assert (after.mlflow_run_id, after.new_values) == (before, 1)
    assert [step for step, _ in history(client, before, "loss")] == [1, 2, 3]


@pytest.mark.parametrize("arrived", [True, False])
def test_a_sync_cut_short_neither_doubles_nor_loses_values(runs, client, monkeypatch, arrived):
    log_steps(Run.open(runs / "r", {}), range(1500))
    real = mlflow.MlflowClient.log_batch

    def cut(self, run_id, metrics=(), **rest):
        if arrived and metrics:
            real(self, run_id, metrics=metrics, **rest)
        raise ConnectionError("cut")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", cut)
    with pytest.raises(TrocarError, match="cut"):
        sync(runs / "r")
    monkeypatch.undo()
    monkeypatch.chdir(runs)
    result = sync(runs / "r")
    assert result.new_values == (500 if arrived else 1500)
    assert [step for step, _ in history(client, result.mlflow_run_id, "loss")] == list(range(1500))


def test_nan_and_infinity_reach_mlflow(runs, client):
    run = Run.open(runs / "r", {})
    run.log(1, {"a": math.nan, "b": math.inf})
    run_id = sync(runs / "r").mlflow_run_id
    assert math.isnan(history(client, run_id, "a")[0][1])
    assert history(client, run_id, "b")[0][1] >= 1.7e308


def test_params_beyond_the_limits_of_mlflow_are_cut_and_changed_ones_are_named(runs, client):
    config = {f"p{n}": n for n in range(230)} | {"long": "x" * 9000, "odd*key": 1}
    Run.open(runs / "r", config)
    run_id = sync(runs / "r").mlflow_run_id
    params = client.get_run(run_id).data.params
    assert len(params) == 232
    assert params["long"] == "x" * 5997 + "..."
    assert params["odd_key"] == "1"
    Run.open(runs / "r", {**config, "p7": 8, "new": True})
    assert sync(runs / "r").mlflow_run_id == run_id
    found = client.get_run(run_id).data
    assert (found.params["p7"], found.params["new"], found.tags["trocar.changed"]) == ("7", "true", "p7")


def test_a_run_whose_process_is_gone_is_not_running(runs):
    Run.open(runs / "r", {})
    update_record(runs / "r", process={**read_record(runs / "r")["process"], "started": "1"})
    assert sync(runs / "r").status == "KILLED"


def test_two_servers_keep_separate_accounts(runs, empty_database, tmp_path):
    log_steps(Run.open(runs / "r", {}), [1, 2])
    shutil.copy(empty_database, tmp_path / "other.db")
    assert sync(runs / "r").new_values == 2
    assert sync(runs / "r", f"sqlite:///{tmp_path}/other.db").new_values == 2
    assert sync(runs / "r").new_values == 0


def test_the_default_database_lies_beside_the_run_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("TROCAR_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert resolve_uri(tmp_path / "runs" / "r") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_uri(tmp_path / "r", "sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert resolve_uri(tmp_path / "r", "sqlite") == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(tmp_path / "r") == "http://server"


def test_credentials_are_written_nowhere(runs, monkeypatch):
    Run.open(runs / "r", {"tracking": {"uri": "http://ann:geheim@127.0.0.1:9/ml"}})
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrocarError) as refused:
        sync(runs / "r", "http://ann:geheim@127.0.0.1:9/ml")
    assert "http://***@127.0.0.1:9/ml" in str(refused.value)
    texts = [str(refused.value)] + [p.read_text() for p in runs.rglob("*") if p.is_file() and p.suffix != ".db"]
    assert not [text for text in texts if "geheim" in text or "ann:" in text]


def test_mlflow_never_phones_home():
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()


def test_nested_configuration_becomes_dotted_params():
    assert flatten({"a": {"b": {"c": None}}, "d": [1, {"e": 2}], "f": {}, "g": "h"}) == {
        "a.b.c": "null",
        "d": '[1, {"e": 2}]',
        "f": "{}",
        "g": "h",
    }


def test_one_mlflow_run_has_the_requeues_and_hours_of_its_job(runs, client):
    def seen(requeues, waiting_s, running_s):
        job = {"job": "12", "requeues": requeues, "waiting_s": waiting_s, "running_s": running_s}
        update_record(runs / "r", slurm=job)
        found = client.get_run(sync(runs / "r").mlflow_run_id)
        tags = {key: value for key, value in found.data.tags.items() if key.startswith("slurm.")}
        return found.info.run_id, tags

    Run.open(runs / "r", {}).finish("killed")
    first, tags = seen(0, 36.0, 0.0)
    assert tags == {"slurm.job": "12", "slurm.requeues": "0", "slurm.waiting_h": "0.010", "slurm.running_h": "0.000"}
    Run.open(runs / "r", {}).finish("finished")  # the next life
    second, tags = seen(1, 72.0, 5400.0)
    assert second == first
    assert tags == {"slurm.job": "12", "slurm.requeues": "1", "slurm.waiting_h": "0.020", "slurm.running_h": "1.500"}
