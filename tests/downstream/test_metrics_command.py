"""`trocar metrics` recomputes every number from the predictions."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from metrics_factory import labelled, random_multiclass
from rich.console import Console

from trocar.cli.main import main, parse
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.metrics.registry import MULTITASK
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.predictions.prediction_file import About, Predictions
from trocar.downstream.predictions.prediction_scores import MetricsReport, PredictionScores
from trocar.downstream.tasks import frame_tasks, get_task
from trocar.jobs.evaluate import evaluate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def write_phases(path: Path, fps: float = 1.0) -> None:
    outcome = random_multiclass(0)
    rows = {"task": "phase", "case": outcome.case, "gt": outcome.gt, "pred": outcome.pred}
    table = pd.DataFrame({**rows, "scores": list(outcome.scores)})
    Predictions(table, About({"phase": outcome.classes}, fps), path).write()


def test_every_name_has_a_value_and_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_phases(tmp_path / "p.parquet")
    assert main(["metrics", str(tmp_path / "p.parquet"), "--bootstrap", "20"]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    (row,) = found["rows"]
    assert set(row["metrics"]) == set(get_task("phase").named)
    assert (found["bootstrap"], row["cases"]) == (20, 4)
    outcome = random_multiclass(0)
    value = row["metrics"]["accuracy@pooled"]
    assert value["value"] == pytest.approx((outcome.gt == outcome.pred).mean())
    assert value["low"] <= value["value"] <= value["high"]
    assert row["spread"]["accuracy@std_video"] > 0
    printed = capsys.readouterr().out
    assert "f1@video_macro_A" in printed
    assert f"{value['value']:.4f}" in printed


def test_without_draws_there_are_no_intervals_and_out_says_where(tmp_path: Path) -> None:
    write_phases(tmp_path / "p.parquet")
    out = tmp_path / "other.json"
    assert main(["metrics", str(tmp_path / "p.parquet"), "--bootstrap", "0", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {(v["low"], v["high"]) for v in row["metrics"].values()} == {(None, None)}
    assert not (tmp_path / "metrics.json").exists()


def test_runs_stand_side_by_side_as_many_as_fit_and_no_name_is_cut(tmp_path: Path) -> None:
    outcome = random_multiclass(0)
    rows = {"task": "phase", "case": outcome.case, "gt": outcome.gt, "pred": outcome.pred, "protocol": "knn"}
    parts = [pd.DataFrame({**rows, "backbone": "mine", "seed": seed}) for seed in range(4)]
    pd.concat(parts).to_parquet(tmp_path / "p.parquet")
    for draws in (0, 10):
        found = MetricsReport(PredictionScores.of(Predictions.read(tmp_path / "p.parquet"), draws))
        for width, tables in ((60, 4), (80, 2), (120, 2), (200, 1)):
            console = Console(width=width, record=True, file=io.StringIO())
            for table in found.tables(width):
                console.print(table)
            text = console.export_text()
            assert text.count("metric") == tables, (width, draws)
            assert all(name in text for name in found.rows[0].metrics)
            assert "…" not in text
            assert ("interval over cases" in text) == (draws > 0)
            assert ("replicate 3" in text, "draw" in text, "start" in text) == (True, False, False)


def test_it_recomputes_what_an_evaluation_found(tmp_path: Path) -> None:
    config = EvaluateConfig(
        backbone=["random:test_resnet"], data=str(make_folder(tmp_path / "data")), task=["phase", "tools"],
        protocol=["knn"], seeds=1, size=32, phases=["one", "two"], out=tmp_path / "out", cache=tmp_path / "cache",
    )  # fmt: skip
    results = evaluate(config)
    assert main(["metrics", str(tmp_path / "out" / "predictions.parquet"), "--bootstrap", "0"]) == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == sum(len(row.members) for row in results.rows)
    for row in rows:
        values = results.row(row["task"], row["protocol"], row["backbone"]).values
        for name, per_seed in values.items():
            # Scores are stored as float32.
            assert row["metrics"][name]["value"] == pytest.approx(per_seed[row["replicate"]], abs=1e-6), name


def test_steps_and_instruments_of_one_arm_get_the_multitask_score(tmp_path: Path) -> None:
    steps = labelled([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], classes=2)
    hot = np.eye(19, dtype=int)[[1, 2, 3, 4]]
    parts = [
        pd.DataFrame({"task": "step", "case": steps.case, "gt": steps.gt, "pred": steps.pred}),
        pd.DataFrame({"task": "tools", "case": steps.case, "gt_labels": list(hot), "pred_labels": list(hot)}),
    ]
    pd.concat(parts).to_parquet(tmp_path / "p.parquet")
    assert main(["metrics", str(tmp_path / "p.parquet"), "--bootstrap", "0"]) == 0
    rows = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["rows"]
    assert {row["task"]: row["metrics"].get("multitask@pitvis", {}).get("value") for row in rows} == {
        "step": 1.0,
        "tools": None,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bootstrap", "-1"], "give 0 or more draws"),
        (["--out", "nowhere/metrics.json"], "its folder does not exist"),
        (["--out", "p.json"], "give another file"),
        (["--task", "phases"], "did you mean 'phase'"),
        (["--out", "m.json"], "is a folder; give the file in it"),
    ],
)
def test_bad_arguments_exit_two(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_phases(tmp_path / "p.parquet")
    given = "." if "folder;" in message else "p.parquet"
    assert main(["metrics", given, *arguments]) == 2
    assert message in capsys.readouterr().err


SECTIONS = {"phase": "Phase and step", "step": "Phase and step", "tools": "Tools", "cvs": "CVS", "triplet": "Triplets"}


@pytest.mark.parametrize("task", frame_tasks())
def test_every_name_is_in_its_section_of_the_page_and_no_other(task: str) -> None:
    page = PAGE.read_text(encoding="utf-8").partition(f"## {SECTIONS[task]}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    together = set(MULTITASK) if task in ("phase", "step") else set()
    assert documented - together == set(get_task(task).named)
    assert together <= documented


def test_every_metric_of_masks_is_on_the_page_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8").partition("## Segmentation\n")[2]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert documented == {name for name in SEGMENTATION_METRICS if not name.endswith("_no_background")}
    without = {f"{name}_no_background" for name in documented if not name.endswith("@binary_per_organ")}
    assert documented | without == set(SEGMENTATION_METRICS)


def test_the_commands_of_the_page_parse() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("trocar ")]
    assert len(commands) >= 2
    for command in commands:
        parse(shlex.split(command)[1:])
