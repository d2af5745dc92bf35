"""mlflow killed, locked or gone during a training: the training doesn't notice, and a later sync brings everything."""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_record import Injector
from fault_trainer import HANGS_S, Started, fork, fresh_seeds, pretrain, results, start, write_config

from trocar.runs.mlflow_follower import LOG, Follower
from trocar.runs.mlflow_sync import STATE
from trocar.runs.run_folder import read_metrics
from trocar.ssl.engine.trainer import Trainer

pytest.importorskip("mlflow")

ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def serve(port: int, database: Path) -> None:
    """mlflow's server in this process."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}"}
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(database.parent / "artifacts")
    from mlflow.server import app
    from werkzeug.serving import make_server

    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


def served(port: int, database: Path, log: Path) -> Started:
    """A server that answers."""
    server = fork(partial(serve, port, database), log)
    wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    return server


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + HANGS_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pause(step: int, go: Path) -> None:
    """Hold the training at this step until there is a file; don't wait long for mlflow at the end."""
    Follower.stop.__defaults__ = (0.5,)
    forward = Trainer._step

    def held(trainer: Trainer, batch: Any, progress: Any) -> Any:
        if progress.step == step:
            wait_until(go.exists)
        return forward(trainer, batch, progress)

    Trainer._step = held  # type: ignore[method-assign]


def followers(out: Path) -> list[psutil.Process]:
    """The processes that bring mlflow up to this run."""
    return [p for p in psutil.process_iter(["cmdline"]) if {"--follow", str(out)} <= set(p.info["cmdline"] or ())]


def numbers(out: Path) -> dict[str, float]:
    """Each logged number of the run's own record."""
    return {f"{k} of step {row['step']}": float(v) for row in read_metrics(out) for k, v in row.items() if k != "step"}


def numbers_in(database: Path) -> dict[str, float]:
    """Each number that mlflow has; it must have each once."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select key, step, value from metrics").fetchall()
    found = {f"{key} of step {step}": value for key, step, value in rows}
    assert len(found) == len(rows)
    return found


def sync(out: Path, uri: str) -> None:
    """`trocar track sync`, as a user would."""
    run = start(["track", "sync", out, "--uri", uri], out.with_suffix(".sync.log"))
    assert run.end() == 0, run.said()


def test_a_server_killed_during_a_training_costs_nothing(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    out, database, go = tmp_path / "run", tmp_path / "mlflow.db", tmp_path / "go"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    (seed,) = fresh_seeds(1)
    step = random.Random(seed).randrange(2, 20)
    promise = "the training goes on; `trocar track sync` brings all numbers, each once"
    with inject("SIGKILL", "mlflow server", promise, seed=seed, at=f"step {step}") as injection:
        server = served(port, database, tmp_path / "server.log")
        config = write_config(shards, out, tracking={"uri": uri})
        run = pretrain(config, fault=partial(pause, step, go), environment=ONE_TRY)
        wait_until(lambda: (out / STATE).exists() and '"loss"' in (out / STATE).read_text())
        server.kill_all()
        go.touch()
        assert run.end() == 0, run.said()
        injection.compare(results(undisturbed), results(out))
        assert len(numbers_in(database)) < len(numbers(out))
        server = served(port, database, tmp_path / "server.log")
        sync(out, uri)
        injection.compare(numbers(out), numbers_in(database))
        wait_until(lambda: not followers(out))
        server.kill_all()


def test_a_database_that_is_locked_or_gone_costs_nothing(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    out, database = tmp_path / "run", tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    promise = "the training goes on; `trocar track sync` brings all numbers, each once"
    with inject("database locked", "mlflow", promise, at="all of the run") as injection:
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        config = write_config(shards, out, tracking={"uri": uri})
        run = pretrain(config, fault=partial(pause, 0, config))
        assert run.end() == 0, run.said()
        injection.compare(results(undisturbed), results(out))
        wait_until((out / LOG).exists)
        assert "database is locked" in (out / LOG).read_text()
        other.execute("ROLLBACK")
        other.close()
        sync(out, uri)
        injection.compare(numbers(out), numbers_in(database))
    wait_until(lambda: not followers(out))
    with inject("database gone", "mlflow", promise, at="after the run") as injection:
        database.unlink()
        sync(out, uri)
        injection.compare(numbers(out), numbers_in(database))
