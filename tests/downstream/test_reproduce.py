"""Published numbers beside measured ones, on data made up in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from downstream_factory import make_cholec80

from trocar.cli.main import main
from trocar.core.config import find_preset
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults, ResultRow, RowOrigin
from trocar.downstream.predictions.prediction_file import About, Predictions, RunIndex
from trocar.downstream.predictions.prediction_scores import PredictionScores
from trocar.downstream.reproduce import PublishedNumber, Reproduction, _check, measure, names, read
from trocar.jobs.evaluate import evaluate

PUBLISHED = {  # preset, metric, value, backbone
    "cholec80_tecno_resnet50": ("cholec80_phase_tecno", "accuracy@video", 0.8856, "timm:resnet50.tv_in1k"),
    "endoscapes_cvs_resnet50": ("endoscapes_cvs_finetune", "map", 0.515, "timm:resnet50.tv_in1k"),
    "cholecseg8k_endovit": ("cholecseg8k_segmentation", "iou@class_then_image", 0.6505, "endovit_segmentation_vitb16"),
    "cholec80_selfsupsurg_dino": (
        "cholec80_phase_finetune",
        "f1@video_macro_A",
        0.716,
        "selfsupsurg_dino_resnet50",
    ),
}


def experiment(folder: Path, **target: Any) -> Path:
    """A number "published" for three videos in Cholec80's layout, and the preset that measures it."""
    preset = folder / "preset.yaml"
    preset.write_text(
        yaml.safe_dump(
            {"layout": "cholec80", "task": ["phase"], "protocol": ["knn"], "size": 32, "baselines": ["majority"]}
        )
    )
    stated = {"task": "phase", "metric": "accuracy@video", "value": 0.5, "tolerance": 1.0, "why": "any", "source": "us"}
    path = folder / "toy.yaml"
    tree = {
        "about": "a toy",
        "preset": str(preset),
        "overrides": {"backbone": ["net=random:test_resnet"], "seeds": 1, "bootstrap": 20, "figures": False},
        "target": {**stated, **target},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_number_within_the_tolerance_is_reported_with_its_interval_and_exits_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_cholec80(tmp_path / "cholec80")
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["reproduce", str(experiment(tmp_path)), *arguments]) == 0
    found = json.loads((tmp_path / "out/reproduce.json").read_text())
    (row,) = [
        row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"] if row["kind"] != "majority"
    ]
    assert found["measured"] == row["metrics"]["accuracy@video"]["mean"]
    assert found["difference"] == pytest.approx(found["measured"] - 0.5)
    low, high = found["interval"]
    assert low <= found["measured"] <= high
    assert found["verdict"] == "within"
    printed = capsys.readouterr().out
    assert "published  0.5000 (us)" in printed
    assert f"measured   {found['measured']:.4f} (1 runs, 95 % interval over cases [{low:.4f}, {high:.4f}])" in printed
    assert printed.rstrip().endswith(str(tmp_path / "out"))


def test_a_number_outside_the_tolerance_exits_1_and_says_on_which_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_cholec80(tmp_path / "cholec80")
    toy = experiment(tmp_path, value=0.0, tolerance=0.001, metric="f1@pooled_macro")
    assert main(["reproduce", str(toy), "--data", str(data)]) == 1
    assert "tolerance 0.0010 (any): above" in capsys.readouterr().out
    assert json.loads(Path("reproduce-toy/reproduce.json").read_text())["verdict"] == "above"


TARGET = PublishedNumber(
    task="phase", metric="m", value=0.8, tolerance=0.02, why="ours", source="paper", runs=3, secondary=True
)


@pytest.mark.parametrize(
    ("values", "incomplete", "verdict"),
    [
        ((0.78,), None, "within"),
        ((0.82,), None, "within"),
        ((0.77, 0.83), None, "within"),
        ((0.779,), None, "below"),
        ((0.9, 0.8), None, "above"),
        ((0.8,), "incomplete (3 of 4 official test frames)", "incomplete"),
    ],
)
def test_the_mean_over_runs_is_compared_and_missing_test_frames_compare_nothing(
    values: tuple[float, ...], incomplete: str | None, verdict: str
) -> None:
    assert Reproduction("x", TARGET, values, None, incomplete).verdict == verdict


def test_what_is_said_names_runs_spread_and_second_hand_sources() -> None:
    lines = Reproduction("x", TARGET, (0.79, 0.81), (0.7, 0.9), None).lines()
    assert lines[1] == "published  0.8000 (paper, 3 runs, from secondary sources)"
    assert lines[2] == "measured   0.8000 ± 0.0141 (2 runs, 95 % interval over cases [0.7000, 0.9000])"
    assert lines[3] == "difference +0.0000, tolerance 0.0200 (ours): within"


def test_values_and_interval_from_the_predictions_are_those_of_the_evaluation(tmp_path: Path) -> None:
    config = EvaluateConfig(
        data=make_cholec80(tmp_path / "data"),
        backbone=["random:test_resnet"],
        protocol=["knn"],
        size=32,
        seeds=2,
        baselines=["mean colour"],
        bootstrap=50,
        out=tmp_path / "out",
        figures=False,
    )
    results = evaluate(config)
    row = results.row("phase", "knn", "random:test_resnet")
    headline = "f1@pooled_macro"
    expected = (tuple(row.values[headline]), row.interval)
    assert len(expected[0]) == 2
    assert measure(results, row, headline) == expected
    values, interval = measure(results, row, "edit@surgphasebench")  # in no table
    assert len(values) == 2
    assert interval is not None


def test_missing_data_unknown_names_and_unknown_metrics_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["reproduce", *arguments]) == 2
        return capsys.readouterr().err

    gone = str(tmp_path / "gone")
    assert f"no data folder '{gone}'" in said("cholec80_tecno_resnet50", "--data", gone)
    assert "--data is needed" in said("cholec80_tecno_resnet50")
    assert "did you mean 'cholec80_tecno_resnet50'?" in said("cholec80_tecno_resnet", "--data", "/nowhere")
    assert "name what to reproduce; there is: " in said()
    shared = experiment(tmp_path)
    shared.write_text(shared.read_text().replace("seeds: 1", "ranks: 2"))
    assert "reproduced by one process" in said(str(shared), "--data", str(tmp_path))
    wrong = experiment(tmp_path, metric="accuracy@vido")
    assert "did you mean 'accuracy@video'?" in said(str(wrong), "--data", str(tmp_path))


def test_what_can_be_reproduced_is_listed_with_the_published_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == PUBLISHED.keys() == set(names())
    for name, (_, metric, value, _) in PUBLISHED.items():
        assert f" {metric} {value:.4f} ± " in lines[name]


def test_a_metric_of_masks_is_measured_from_their_confusions(tmp_path: Path) -> None:
    confusion = {"a": [2, 0, 1, 1], "b": [2, 0, 0, 2], "c": [4, 0, 0, 0]}  # one image a case, two classes
    about = {"task": "segmentation", "backbone": "net", "kind": "backbone", "protocol": "segmentation"}
    table = pd.DataFrame([{**about, "case": case, "confusion": counts} for case, counts in confusion.items()])
    Predictions(table, About({"segmentation": ["background", "tool"]}), tmp_path / "predictions.parquet").write()
    scores = PredictionScores.of(Predictions.read(tmp_path / "predictions.parquet"), draws=50)
    origin = RowOrigin("segmentation", "segmentation", "net", "backbone", ["net"], [RunIndex()], [])
    row = ResultRow(**vars(origin), values={}, interval=None, per_class={})
    results = EvaluationResults({}, {}, [row], scores)
    (value,), interval = measure(results, row, "iou@class_then_image")
    background, tool = (2 / 3 + 1 + 1) / 3, (1 / 2 + 1) / 2  # the third image has no tool
    assert value == pytest.approx((background + tool) / 2)
    assert interval is not None


def test_every_target_is_a_metric_of_its_task() -> None:
    for name in PUBLISHED:
        _check(name, read(name).target)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_targets_are_the_published_ones_and_name_their_preset(name: str) -> None:
    preset, metric, value, backbone = PUBLISHED[name]
    found = read(name)
    assert (found.preset, found.target.metric, found.target.value) == (f"downstream/{preset}", metric, value)
    assert find_preset(found.preset).is_file()
    (arm,) = found.overrides["backbone"]
    assert arm.partition("=")[2] == backbone
