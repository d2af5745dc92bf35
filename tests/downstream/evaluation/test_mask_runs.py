"""Masks from the evaluation to disk and back: what is written, and that every number follows from it."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from mask_factory import CLASSES, make_mask_folder
from PIL import Image

from trocar.cli.main import main
from trocar.downstream.evaluation import run_files
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.downstream.evaluation.run_files import file_stem
from trocar.downstream.metrics.outcome import SegmentationOutcome
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS, scores_of
from trocar.downstream.predictions.prediction_file import Predictions
from trocar.downstream.predictions.prediction_scores import outcomes
from trocar.jobs.evaluate import evaluate

QUICK = {"name": "segmentation", "epochs": 1, "batch": 4, "decoder": "linear"}
ARM = "random:test_resnet"


def settings(root: Path, **changes: object) -> EvaluateConfig:
    given = {
        "backbone": [ARM],
        "data": root / "data",
        "task": ["segmentation"],
        "protocol": [QUICK],
        "baselines": ["majority"],
        "seeds": 2,
        "size": 32,
        "bootstrap": 20,
        "out": root / "out",
    }
    return EvaluateConfig.model_validate(given | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and the evaluation of two frozen and trained segmenters in out/."""
    root = tmp_path_factory.mktemp("masks")
    make_mask_folder(root / "data", shapes=((40, 56), (48, 32)))
    evaluate(settings(root, protocol=[QUICK, {**QUICK, "freeze": True}]))
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out/predictions.parquet")


def rows_of(folder: Path, file: str) -> list[dict]:  # type: ignore[type-arg]
    found: list[dict] = json.loads((folder / "out" / file).read_text())["rows"]  # type: ignore[type-arg]
    return found


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_the_constant_mask_stands_beside_every_protocol(folder: Path) -> None:
    found = [(row["protocol"], row["backbone"], len(row["members"])) for row in rows_of(folder, "results.json")]
    trained = [(label, ARM, 2) for label in ("segmentation linear", "segmentation linear, frozen")]
    assert found == [*trained, ("constant_mask", "majority", 1)]


def test_every_mask_is_a_png_of_the_native_size_under_a_path_of_its_own(folder: Path, table: pd.DataFrame) -> None:
    assert len(table) == 9 * 5
    assert table["pred_mask"].nunique() == len(table)
    data = pd.read_csv(folder / "data/frames.csv").set_index("path")["mask"]
    for row in table.itertuples():
        truth = pixels(folder / "out" / str(row.gt_mask))
        mask = pixels(folder / "out" / str(row.pred_mask))
        assert (truth == pixels(folder / "data" / data[row.path])).all()
        assert mask.shape == truth.shape
        assert mask.dtype == np.uint8
        assert mask.max() < len(CLASSES)


def test_confusions_are_counts_of_the_masks_on_disk_without_ignored_pixels(folder: Path, table: pd.DataFrame) -> None:
    for row in table.itertuples():
        truth, mask = (pixels(folder / "out" / str(name)) for name in (row.gt_mask, row.pred_mask))
        used = truth != 255
        expected = np.zeros((3, 3), dtype=np.int64)
        np.add.at(expected, (truth[used], mask[used]), 1)
        assert np.asarray(row.confusion).tolist() == expected.ravel().tolist()


def test_numbers_of_the_results_follow_from_the_predictions(folder: Path, table: pd.DataFrame) -> None:
    for row in rows_of(folder, "results.json"):
        mine = table[(table["protocol"] == row["protocol"]) & (table["backbone"] == row["backbone"])]
        counts = [np.stack(g["confusion"].tolist()).sum(0).reshape(3, 3) for _, g in mine.groupby("replicate")]
        values = [np.nanmean(scores_of(count)) for count in counts]
        assert row["metrics"]["iou@dataset"]["values"] == pytest.approx(values)
        classes = np.stack([scores_of(count) for count in counts])
        known = ~np.isnan(classes)
        for place, name in enumerate(CLASSES):
            mean = classes[known[:, place], place].mean() if known[:, place].any() else None
            assert row["per_class"][name] == (mean if mean is None else pytest.approx(mean))


def test_metrics_json_has_every_metric_and_is_what_the_command_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = json.loads((folder / "out/metrics.json").read_text())
    out = tmp_path / "again.json"
    assert main(["metrics", str(folder / "out/predictions.parquet"), "--bootstrap", "20", "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == written
    assert len(written["rows"]) == 5
    results = {(r["protocol"], r["backbone"]): r["metrics"] for r in rows_of(folder, "results.json")}
    for row in written["rows"]:
        assert set(row["metrics"]) == {name for name in SEGMENTATION_METRICS if not name.endswith("_no_background")}
        assert (row["frames"], row["cases"]) == (9, 3)
        for name, metric in results[row["protocol"], row["backbone"]].items():
            assert row["metrics"][name]["value"] == pytest.approx(metric["values"][row["replicate"]])
    assert "iou@dataset" in capsys.readouterr().out


def test_every_number_of_the_table_is_the_one_in_metrics_json(folder: Path) -> None:
    found = json.loads((folder / "out/metrics.json").read_text())
    means = {(row["protocol"], row["backbone"]): row for row in found["means"]}
    for row in rows_of(folder, "results.json"):
        mean = means[row["protocol"], row["backbone"]]
        for name, shown in row["metrics"].items():
            value = mean["metrics"][name]
            assert (shown["mean"], shown["sd"]) == (value["value"], value["sd"])
        lead = mean["metrics"][row["headline"]]
        assert row["interval"] == [lead["low"], lead["high"]]
        assert row["per_class"] == mean["per_class"]


def test_the_metrics_of_other_peoples_masks_are_those_of_the_confusions(
    folder: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    """Only cases and masks, as other code would write them."""
    few = table[(table["protocol"] == "segmentation linear") & (table["replicate"] == 1)]
    few[["case", "gt_mask", "pred_mask"]].to_csv(folder / "out/theirs.csv", index=False)
    (folder / "out/theirs.json").write_text(json.dumps({"classes": {"segmentation": CLASSES}}))
    out = tmp_path / "theirs.json"
    command = ["metrics", str(folder / "out/theirs.csv"), "--task", "segmentation", "--bootstrap", "0"]
    assert main([*command, "--out", str(out)]) == 0
    (theirs,) = json.loads(out.read_text())["rows"]
    rows = rows_of(folder, "metrics.json")
    (own,) = (row for row in rows if (row["protocol"], row["replicate"]) == ("segmentation linear", 1))
    for name, value in own["metrics"].items():
        assert theirs["metrics"][name]["value"] == value["value"]


def test_overlays_are_drawn_for_every_row_but_the_constant(folder: Path) -> None:
    names = {path.name for path in (folder / "out/figures").iterdir()}
    labels = ("segmentation linear", "segmentation linear, frozen")
    assert names == {f"segmentation-{file_stem(ARM, label)}-overlays.png" for label in labels}


def test_overlays_show_the_frames_of_the_masks_in_any_size(tmp_path: Path) -> None:
    shapes = ((40, 56), (48, 32), (32, 32))
    make_mask_folder(tmp_path / "data", cases=2, shapes=shapes)
    with patch.object(run_files, "draw_overlays") as draw:
        evaluate(settings(tmp_path, seeds=1, bootstrap=0))
    images, gt, pred, scores, classes, path = draw.call_args.args
    assert len(images) == len(gt) == len(pred) == len(scores) == len({mask.shape for mask in gt}) == 3
    for image, truth, mask in zip(images, gt, pred, strict=True):
        assert image.shape == (*truth.shape, 3)
        assert mask.shape == truth.shape
        assert image[truth == 1].mean() > image[truth == 0].mean() + 100
    assert (classes, path.parent) == (CLASSES, tmp_path / "out/figures")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationResults]:
    root = tmp_path_factory.mktemp("mixed")
    make_mask_folder(root / "data", cases=2)
    config = settings(root, seeds=1, task=["phase", "segmentation"], protocol=["knn", QUICK], bootstrap=0)
    return root, evaluate(config)


def test_each_task_takes_the_protocols_that_fit_it(mixed: tuple[Path, EvaluationResults]) -> None:
    _, results = mixed
    assert [(row.task, row.protocol, row.arm) for row in results.rows] == [
        ("phase", "knn", ARM),
        ("phase", "prior", "majority"),
        ("segmentation", "segmentation linear", ARM),
        ("segmentation", "constant_mask", "majority"),
    ]
    assert results.tasks["segmentation"]["counts"] == {"ground": 6, "square": 6, "never": 0}
    assert results.tasks["segmentation"]["absent"] == ["never"]
    assert (results.tasks["phase"]["frames"], results.tasks["segmentation"]["frames"]) == (8, 6)
    assert "Not in the test frames: never." in results.to_markdown()


def test_a_file_of_labels_and_masks_is_read_for_either_task(
    mixed: tuple[Path, EvaluationResults], tmp_path: Path
) -> None:
    root, _ = mixed
    for task in ("phase", "segmentation"):
        out = tmp_path / f"{task}.json"
        command = ["metrics", str(root / "out/predictions.parquet"), "--task", task, "--bootstrap", "0"]
        assert main([*command, "--out", str(out)]) == 0
        assert {row["task"] for row in json.loads(out.read_text())["rows"]} == {task}


def test_without_figures_and_without_a_folder_nothing_is_drawn_or_written(tmp_path: Path) -> None:
    make_mask_folder(tmp_path / "data", cases=2)
    quick = {"seeds": 1, "bootstrap": 0, "cache": tmp_path / "cache"}
    evaluate(settings(tmp_path, figures=False, **quick))
    assert (tmp_path / "out/masks").is_dir()
    assert not (tmp_path / "out/figures").exists()
    before = sorted(tmp_path.rglob("*"))
    found = evaluate(settings(tmp_path, out=None, **quick))
    assert sorted(tmp_path.rglob("*")) == before
    assert set(found.predictions["pred_mask"]) == {""}


def test_names_of_files_differ_where_their_words_do() -> None:
    words = [("a b", "c"), ("a_b", "c"), ("a", "b-c"), ("a-b", "c"), ("../a", "c"), ("a" * 300, "c"), ("a" * 301, "c")]
    names = [file_stem(*pair) for pair in words]
    assert len(set(names)) == len(words)
    assert all(len(name) < 200 and "/" not in name and not name.startswith(".") for name in names)
    assert names[0].startswith("a_b-c-")


def test_tables_lead_without_the_declared_background_and_show_the_classes(tmp_path: Path) -> None:
    make_mask_folder(tmp_path / "data", more="background: ground\n")
    results = evaluate(settings(tmp_path, seeds=1, baselines=["majority"]))
    about = results.tasks["segmentation"]
    assert about["headline"] == about["metrics"][0] == "iou@dataset_no_background"
    assert about["background"] == "ground"
    majority = results.row("segmentation", "constant_mask", "majority")
    assert majority.mean("iou@dataset_no_background") == 0
    assert majority.mean("iou@dataset") > 0.4
    trained = results.row("segmentation", "segmentation linear", ARM)
    assert trained.mean("iou@dataset_no_background") == pytest.approx(trained.per_class["square"])
    ((_, body),) = results._class_cells("segmentation", 9)
    assert [line[0] for line in body] == ["square", "never", "ground (background)"]
    assert body[1][1:] == ["–", "–"]
    assert body[2][2] == f"{majority.per_class['ground']:.3f}"
    text = (tmp_path / "out/results.md").read_text()
    assert f"| iou by class | {ARM}, segmentation linear | majority, constant_mask |" in text
    assert [table.title for table in results.tables()] == ["segmentation", "segmentation, classes"]
    read = outcomes(Predictions.read(tmp_path / "out/predictions.parquet"))
    assert {found.background for found in read.values() if isinstance(found, SegmentationOutcome)} == {0}
    written = {row["backbone"]: row for row in rows_of(tmp_path, "metrics.json")}
    lead = written[ARM]["metrics"]["iou@dataset_no_background"]["value"]
    assert lead == pytest.approx(trained.mean("iou@dataset_no_background"))


def test_without_a_declared_background_tables_stay_as_they_were(folder: Path) -> None:
    (about,) = json.loads((folder / "out/results.json").read_text())["tasks"].values()
    assert about["headline"] == "iou@dataset"
    assert about["background"] is None
    assert "by class" not in (folder / "out/results.md").read_text()
