"""The whole comparison: arms, files, and what bad usage says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_cholec80, make_folder
from sklearn.metrics import f1_score

import trocar.downstream.evaluation.evaluate as evaluation
from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.cli.main import main
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.downstream.predictions.prediction_file import Key
from trocar.jobs.evaluate import evaluate


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResults:
    root = tmp_path_factory.mktemp("evaluate")
    for seed in (1, 2):
        save_backbone(load_backbone("resnet18", seed=seed), root / f"run{seed}", extra={})
    config = EvaluateConfig(
        backbone=[f"mine={root / 'run1'},{root / 'run2'}"],
        data=make_folder(root / "data"),
        task=["phase", "tools"],
        protocol=["knn", "linear"],
        seeds=2,
        size=32,
        bootstrap=50,
        out=root / "out",
    )
    return evaluate(config)


def test_baselines_stand_beside_the_backbone(results: EvaluationResults) -> None:
    arms = {(row.arm, row.kind, len(row.members)) for row in results.rows}
    assert arms == {
        ("mine", "backbone", 2),
        ("random resnet18", "random", 2),
        ("raw pixels", "baseline", 1),
        ("mean colour", "baseline", 1),
        ("time", "baseline", 1),
        ("majority", "majority", 1),
    }
    assert len(results.rows) == 2 * (5 * 2 + 1)


def test_a_problem_that_colour_solves_is_solved_by_colour_and_not_by_the_majority(results: EvaluationResults) -> None:
    assert results.row("phase", "linear", "mean colour").mean("f1@pooled_macro") == 1.0
    assert results.row("tools", "linear", "mean colour").mean("map@pooled") == 1.0
    # Six frames of each phase in every case: the majority is a tie, so phase 0 everywhere: F1 2/3 and 0.
    assert results.row("phase", "prior", "majority").mean("f1@pooled_macro") == pytest.approx(1 / 3)


def test_every_number_follows_from_the_written_predictions(results: EvaluationResults) -> None:
    out = Path(results.data["root"]).parent / "out"
    table = pd.read_parquet(out / "predictions.parquet")
    tree = json.loads((out / "results.json").read_text())
    for row in tree["rows"]:
        if row["task"] != "phase":
            continue
        mine = table[(table["task"] == "phase") & (table["backbone"] == row["backbone"])]
        mine = mine[mine["protocol"] == row["protocol"]]
        values = [
            f1_score(g["gt"].astype(int), g["pred"].astype(int), average="macro") for _, g in mine.groupby("replicate")
        ]
        assert row["metrics"]["f1@pooled_macro"]["values"] == pytest.approx(values)
        assert row["metrics"]["f1@pooled_macro"]["mean"] == pytest.approx(np.mean(values))
    assert set(table.columns) >= {"fold", "case", "video", "time_s", "gt", "pred", "scores"}
    assert (table["fold"] == table["case"]).all()
    assert len(table) == 48 * sum(len(row["runs"]) for row in tree["rows"])


def test_every_number_of_the_tables_is_the_one_in_metrics_json(results: EvaluationResults) -> None:
    out = Path(results.data["root"]).parent / "out"
    table, found = json.loads((out / "results.json").read_text()), json.loads((out / "metrics.json").read_text())
    runs = {tuple(row[name] for name in Key._fields): row["metrics"] for row in found["rows"]}
    means = {(row["task"], row["backbone"], row["protocol"]): row for row in found["means"]}
    assert len(means) == len(table["rows"])
    for row in table["rows"]:
        contender = row["task"], row["backbone"], row["protocol"]
        mean = means[contender]
        assert mean["runs"] == len(row["runs"])
        for name, shown in row["metrics"].items():
            value = mean["metrics"].get(name, {"value": None, "sd": None})
            assert (shown["mean"], shown["sd"]) == (value["value"], value["sd"]), (contender, name)
            for run, one in zip(row["runs"], shown["values"], strict=True):
                assert one == runs[(*contender, *run.values())].get(name, {"value": None})["value"], (contender, name)
        lead = mean["metrics"][row["headline"]]
        assert row["interval"] == [lead["low"], lead["high"]]
        assert row["per_class"] == mean["per_class"]


def test_the_markdown_table_has_a_line_per_row(results: EvaluationResults) -> None:
    text = (Path(results.data["root"]).parent / "out/results.md").read_text()
    assert sum(line.startswith("| mine ") for line in text.splitlines()) == 4
    assert " ± " in next(line for line in text.splitlines() if line.startswith("| mine "))
    assert "48 frames, 4 cases, leave-one-case-out" in text


def test_given_and_baseline_arms_of_equal_weights_score_equally(tmp_path: Path) -> None:
    save_backbone(load_backbone("resnet18", seed=0), tmp_path / "run", extra={})
    data = make_folder(tmp_path / "data", cases=3, frames=6)
    config = EvaluateConfig(
        backbone=[str(tmp_path / "run")], data=data, seeds=1, size=32, baselines=["random"], cache=tmp_path / "cache"
    )
    found = evaluate(config)
    assert [row.arm for row in found.rows] == ["run", "random resnet18"]
    assert found.rows[0].values == found.rows[1].values


def test_a_precision_that_is_not_float32_is_on_record_and_kept_apart(tmp_path: Path) -> None:
    save_backbone(load_backbone("test_vit", seed=0), tmp_path / "run", extra={})
    data, cache = make_folder(tmp_path / "data", cases=3, frames=6), tmp_path / "cache"
    tuned = {"name": "finetune", "epochs": 1, "batch": 8, "select": "fixed_epochs"}
    computed = {}
    for precision in ("auto", "float32", "bfloat16"):
        found = evaluate(
            EvaluateConfig(
                backbone=[str(tmp_path / "run")],
                data=data,
                protocol=["knn", tuned],
                size=32,
                baselines=[],
                cache=cache,
                precision=precision,
                bootstrap=0,
            )
        )
        computed[precision] = found.data["computed"]
        rounded = precision == "bfloat16"
        assert ("Networks computed in bfloat16." in found.to_markdown()) == rounded
        (detail,) = {fold["precision"] for fold in found.row("phase", "finetune", "run").detail[0]}
        assert detail == computed[precision]["precision"]
        assert len(list(cache.glob("features-*.npy"))) == 1 + rounded
    assert computed["auto"] == computed["float32"] == {"device": "cpu", "precision": "float32", "tf32": False}
    assert computed["bfloat16"]["precision"] == "bfloat16"


def test_videos_are_evaluated_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_cholec80(tmp_path / "data"), tmp_path / "out"
    (tmp_path / "evaluate.yaml").write_text(f"data: {data}\nbootstrap: 20\n")
    arguments = [
        str(tmp_path / "evaluate.yaml"),
        "baselines=[raw pixels, majority]",
        "--task",
        "tools",
        "--out",
        str(out),
    ]
    assert main(["evaluate", *arguments, "--protocol", "knn"]) == 0
    assert "raw pixels" in capsys.readouterr().out
    tree = json.loads((out / "results.json").read_text())
    assert [row["backbone"] for row in tree["rows"]] == ["raw pixels", "majority"]
    assert tree["tasks"]["tools"]["counts"] == {"Grasper": 12, "Hook": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "phases"], "did you mean 'phase'"),
        (["--protocol", "lineer"], "did you mean 'linear'"),
        (["--task", "tools"], "no labels for the task 'tools'"),
        (["--layout", "cholec8"], "did you mean 'cholec80'"),
        (["--backbone", "resnet81"], "did you mean 'resnet18'"),
        (["--backbone", "a=resnet18", "--backbone", "a=resnet34"], "two backbones are called 'a'"),
        (["--folds", "9"], "9 folds of 2 labelled cases"),
        (["baselines=[raw pixel]"], "did you mean 'raw pixels'"),
        (["seed=1"], "unknown key 'seed'"),
        (["--out", __file__], "is a file: give a folder"),
    ],
)
def test_bad_usage_exits_2_with_the_nearest_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    data = make_folder(tmp_path / "data", cases=2, frames=2)
    table = pd.read_csv(data / "frames.csv").drop(columns="tool_red")
    table.to_csv(data / "frames.csv", index=False)
    overrides, flags = [a for a in arguments if "baselines" in a or "seed=" in a], list(arguments)
    flags = [a for a in flags if a not in overrides]
    cache = ["--cache", str(tmp_path / "cache")]
    assert main(["evaluate", *overrides, "--data", str(data), *cache, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_data_folder_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", str(tmp_path / "gone")]) == 2
    assert "no data folder" in capsys.readouterr().err


def test_two_evaluations_at_once_into_one_folder_write_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_folder(tmp_path / "data", cases=3, frames=4), tmp_path / "out"
    first_writes, second_waits, second_wrote = threading.Event(), threading.Event(), threading.Event()
    write, lock = evaluation._write, evaluation.locked
    met: list[bool] = []

    def writing(*arguments: Any) -> None:
        if first_writes.is_set():
            second_wrote.set()
        else:
            first_writes.set()
            assert second_waits.wait(60)
            met.append(second_wrote.wait(0.5))  # time enough for the second to come in too, if it can
        write(*arguments)

    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        if first_writes.is_set():
            second_waits.set()
        with lock(path):
            yield

    monkeypatch.setattr(evaluation, "_write", writing)
    monkeypatch.setattr(evaluation, "locked", locked)

    def run(task: str) -> None:
        evaluate(EvaluateConfig(data=data, out=out, task=[task], baselines=["raw pixels"], size=32, figures=False))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, "phase")
        assert first_writes.wait(60)
        second = pool.submit(run, "tools")
        first.result()
        second.result()
    assert met == [False]
    tree, table = json.loads((out / "results.json").read_text()), pd.read_parquet(out / "predictions.parquet")
    assert set(tree["tasks"]) == set(table["task"]) == {"tools"}
