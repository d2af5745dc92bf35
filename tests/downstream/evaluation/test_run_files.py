"""An evaluation in mlflow: a run with the files, and a run below it for every row of its tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trocar.cli.main import main
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults, ResultRow, RowOrigin
from trocar.downstream.evaluation.run_files import record, track
from trocar.downstream.predictions.prediction_file import About, Predictions, RunIndex
from trocar.downstream.predictions.prediction_scores import PredictionScores
from trocar.errors import ConfigError
from trocar.privacy.aliases import Aliases
from trocar.runs.run_folder import read_metrics


def row(arm: str, score: float, protocol: str = "knn") -> ResultRow:
    values = {"f1@pooled_macro": [score, score + 0.2], "accuracy": [0.5, 0.7]}
    said = RowOrigin(
        "phase", protocol, arm, "backbone", ["a", "b"], [RunIndex(0), RunIndex(1)], [[], []], {"verdict": "clean"}
    )
    return ResultRow(**vars(said), values=values, interval=(0.1, 0.9), per_class={})


def results(*rows: ResultRow, hidden: tuple[str, ...] = ()) -> EvaluationResults:
    import pandas as pd

    about = {"headline": "f1@pooled_macro", "budget": "", "metrics": ["f1@pooled_macro", "accuracy"]}
    nothing = PredictionScores(Predictions(pd.DataFrame(), About(), Path("none")), {}, draws=0)
    return EvaluationResults({"layout": "folder"}, {"phase": about}, list(rows), nothing, Aliases(hidden))


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def settings(out: Path, uri: str) -> EvaluateConfig:
    (out / "figures").mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"rows": []}))
    (out / "figures" / "phase.png").write_bytes(b"png")
    return EvaluateConfig.model_validate({"data": "labels", "out": out, "tracking": {"uri": uri}})


def log(found: EvaluationResults, config: EvaluateConfig, say: Callable[[str], None]) -> None:
    """As an evaluation with this configuration does it."""
    assert config.out is not None
    tracking = config.tracking
    track(found, config.out, config.model_dump(mode="json"), tracking.uri, tracking.experiment, say)


def runs_of(uri: str) -> tuple[Any, dict[str, Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    known = client.get_experiment_by_name("trocar")
    return client, {run.info.run_name: run for run in client.search_runs([known.experiment_id])}


def test_every_row_is_a_run_with_tags_below_that_of_the_evaluation(tmp_path: Path, database: str) -> None:
    config = settings(tmp_path / "scores", database)
    said: list[str] = []
    log(results(row("ours", 0.3), row("init", 0.2)), config, said.append)
    assert said == ["mlflow"]
    client, runs = runs_of(database)
    assert set(runs) == {"scores", "ours: phase, knn", "init: phase, knn"}
    ours = runs["ours: phase, knn"]
    assert ours.data.metrics == pytest.approx(
        {"f1_pooled_macro": 0.4, "f1_pooled_macro_low": 0.1, "f1_pooled_macro_high": 0.9, "accuracy": 0.6}
    )
    tags = {key: value for key, value in ours.data.tags.items() if not key.startswith(("mlflow.", "trocar."))}
    place = {"arm": "ours", "kind": "backbone", "task": "phase", "protocol": "knn", "budget": "all labels"}
    assert tags == place | {"seeds": "2", "data": "folder", "leak": "clean"}
    whole = runs["scores"]
    assert ours.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert {"rows"} == set(whole.data.metrics)
    assert {file.path for file in client.list_artifacts(whole.info.run_id)} == {"results.json", "figures"}
    assert [file.path for file in client.list_artifacts(whole.info.run_id, "figures")] == ["figures/phase.png"]


def test_a_changed_score_is_a_new_step_and_an_unchanged_one_is_nothing(tmp_path: Path, database: str) -> None:
    config = settings(tmp_path / "scores", database)
    for score in (0.3, 0.3, 0.5):
        log(results(row("ours", score), row("init", 0.2)), config, print)
    _, runs = runs_of(database)
    assert len(runs) == 3
    assert runs["ours: phase, knn"].data.metrics["f1_pooled_macro"] == pytest.approx(0.6)
    found = {path.name.split("-")[2]: len(read_metrics(path)) for path in (tmp_path / "scores" / "rows").iterdir()}
    assert found == {"ours": 2, "init": 1}


def test_the_folder_is_all_that_a_later_sync_needs(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    config = settings(out, f"sqlite:///{tmp_path / 'results.json' / 'no' / 'mlflow.db'}")
    (tmp_path / "results.json").write_text("a file where a folder should be")
    said: list[str] = []
    log(results(row("ours", 0.3)), config, said.append)
    assert said[1].startswith("mlflow: mlflow at sqlite:")
    assert main(["track", "sync", str(out), "--uri", database]) == 0
    assert "5 new values" in capsys.readouterr().out
    assert set(runs_of(database)[1]) == {"scores", "ours: phase, knn"}


def test_names_that_are_withheld_do_not_reach_mlflow(tmp_path: Path, database: str) -> None:
    from trocar.privacy.aliases import withhold

    config = settings(tmp_path / "scores", database)
    withhold(tmp_path / "scores", ["Inselspital"])
    log(results(row("from Inselspital", 0.3), hidden=("Inselspital",)), config, print)
    client, runs = runs_of(database)
    assert set(runs) == {"scores", "from withheld-1: phase, knn"}
    assert runs["from withheld-1: phase, knn"].data.tags["arm"] == "from withheld-1"
    assert [file.path for file in client.list_artifacts(runs["scores"].info.run_id)] == ["results.json"]  # no pictures
    assert b"Inselspital" not in (tmp_path / "mlflow.db").read_bytes()


def test_without_an_output_folder_there_is_no_record_to_log() -> None:
    from trocar.downstream.evaluation.evaluate import planned

    with pytest.raises(ConfigError, match="tracking: give out"):
        planned(EvaluateConfig.model_validate({"data": "labels", "tracking": {"uri": "sqlite"}}))


def test_nothing_is_recorded_twice_in_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    for _ in range(2):
        record(results(row("ours", 0.3), row("ours", 0.3, "linear")), out, {"seeds": 3})
    assert len(list((out / "rows").iterdir())) == 2
    assert len(list((out / "metrics").iterdir())) == 1
