"""Masks in predictions files of other people's code: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trocar.cli.main import main
from trocar.downstream.metrics.outcome import SegmentationOutcome
from trocar.downstream.predictions.prediction_file import Key, Predictions
from trocar.downstream.predictions.prediction_scores import outcomes
from trocar.errors import TrocarError

GT = [[0, 0, 1, 255], [0, 0, 1, 255]]
PRED = [[0, 1, 1, 1], [0, 0, 1, 0]]
COUNTS = [[3, 1], [0, 2]]
"""By hand; the last column is not scored."""


def write_mask(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def write_table(folder: Path, classes: tuple[str, ...] = ("ground", "tool"), **columns: object) -> Path:
    """One image of one case in `p.csv`, with the class names beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_mask(folder / "masks/gt.png", GT)
    write_mask(folder / "masks/pred.png", PRED)
    given = {"task": "segmentation", "case": "a", "gt_mask": "masks/gt.png", "pred_mask": "masks/pred.png"}
    row = {name: value for name, value in {**given, **columns}.items() if value is not None}
    pd.DataFrame([row]).to_csv(folder / "p.csv", index=False)
    if classes:
        (folder / "p.json").write_text(json.dumps({"classes": {"segmentation": classes}}))
    return folder / "p.csv"


def mask_outcomes(path: Path, task: str | None = None) -> dict[Key, SegmentationOutcome]:
    found = outcomes(Predictions.read(path, task))
    return {key: outcome for key, outcome in found.items() if isinstance(outcome, SegmentationOutcome)}


def test_masks_beside_the_file_become_confusions(tmp_path: Path) -> None:
    ((key, outcome),) = mask_outcomes(write_table(tmp_path, backbone="net", seed=3)).items()
    assert key == Key("segmentation", "net", "", 3)
    assert outcome.confusions.tolist() == [COUNTS]
    assert (outcome.classes, outcome.case.tolist()) == (("ground", "tool"), [0])


def test_a_file_without_a_column_task_is_read_where_the_task_is_said(tmp_path: Path) -> None:
    path = write_table(tmp_path, task=None)
    assert mask_outcomes(path, "segmentation")[Key("segmentation", "", "")].confusions.tolist() == [COUNTS]
    assert main(["metrics", str(path), "--task", "segmentation", "--bootstrap", "0"]) == 0
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert row["metrics"]["iou@dataset"]["value"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    with pytest.raises(TrocarError, match="no column 'task'"):
        mask_outcomes(path)


def test_confusions_are_taken_before_masks_and_need_no_class_names(tmp_path: Path) -> None:
    tables = [
        pd.DataFrame({"task": "segmentation", "case": [case], "protocol": "p", "confusion": [np.ravel(COUNTS)]})
        for case in ("b", "a")
    ]
    pd.concat(tables).assign(gt_mask="nowhere.png", pred_mask="nowhere.png").to_parquet(tmp_path / "p.parquet")
    (outcome,) = mask_outcomes(tmp_path / "p.parquet").values()
    assert outcome.confusions.tolist() == [COUNTS, COUNTS]
    assert (outcome.case.tolist(), outcome.classes) == ([1, 0], ("0", "1"))


def test_a_file_of_other_tasks_has_no_masks(tmp_path: Path) -> None:
    pd.DataFrame({"task": ["phase"], "case": ["a"], "gt": [0], "pred": [0]}).to_csv(tmp_path / "p.csv")
    assert [key.task for key in outcomes(Predictions.read(tmp_path / "p.csv"))] == ["phase"]
    assert main(["metrics", str(tmp_path / "p.csv"), "--task", "segmentation"]) == 1


@pytest.mark.parametrize("name", ["../secret.png", "masks/../../secret.png", "/etc/hostname", "masks/link.png"])
def test_a_mask_outside_the_folder_of_the_file_is_refused(tmp_path: Path, name: str) -> None:
    write_mask(tmp_path / "secret.png", GT)
    path = write_table(tmp_path / "data", gt_mask=name)
    (tmp_path / "data/masks/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(TrocarError, match="lies outside the folder of the file"):
        mask_outcomes(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 0, 7, 0], [0, 0, 0, 0]], "prediction has class 7, but there are 2 classes"),
        ([[0, 0], [0, 0]], "different shapes"),
        ([[[0, 1, 0]] * 4] * 2, "its channels differ; expected a grey mask, this is in colour"),
    ],
)
def test_a_mask_that_cannot_be_is_said(tmp_path: Path, values: object, message: str) -> None:
    path = write_table(tmp_path)
    write_mask(tmp_path / "masks/pred.png", values)
    with pytest.raises(TrocarError, match=message):
        mask_outcomes(path)


@pytest.mark.parametrize(
    ("classes", "named", "background"),
    [
        (("ground", "tool"), None, None),
        (("tool", "Background"), None, 1),
        (("ground", "tool"), "tool", 1),
        (("background", "tool"), "tool", 1),
    ],
)
def test_the_background_is_the_class_that_is_named_or_called_so(
    tmp_path: Path, classes: tuple[str, ...], named: str | None, background: int | None
) -> None:
    path = write_table(tmp_path, classes)
    if named is not None:
        about = {"classes": {"segmentation": classes}, "background": {"segmentation": named}}
        (tmp_path / "p.json").write_text(json.dumps(about))
    assert mask_outcomes(path)[Key("segmentation", "", "")].background == background


def test_a_background_that_is_no_class_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    about = {"classes": {"segmentation": ["ground", "tool"]}, "background": {"segmentation": "grond"}}
    (tmp_path / "p.json").write_text(json.dumps(about))
    with pytest.raises(TrocarError, match=r"background 'grond' is none of its classes.*did you mean 'ground'"):
        mask_outcomes(path)


@pytest.mark.parametrize(("named", "lead"), [(None, "iou@dataset"), ("ground", "iou@dataset_no_background")])
def test_the_command_leads_without_the_background_and_shows_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str | None, lead: str
) -> None:
    path = write_table(tmp_path)
    about = {"classes": {"segmentation": ["ground", "tool"]}}
    if named is not None:
        about["background"] = {"segmentation": named}  # type: ignore[assignment]
    (tmp_path / "p.json").write_text(json.dumps(about))
    assert main(["metrics", str(path), "--bootstrap", "0"]) == 0
    out = capsys.readouterr().out
    names = [line.split()[1] for line in out.splitlines() if "@" in line]
    assert names[0] == lead
    assert (named is None) == ("no background class is declared" in out)
    assert [line.split()[4] for line in out.splitlines() if " iou of " in line] == ["│", "│"]
    assert "iou of tool" in out
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert (row["per_class"], row["background"]) == ({"ground": 3 / 4, "tool": pytest.approx(2 / 3)}, named)
    assert ("iou@dataset_no_background" in row["metrics"]) == (named is not None)


def test_ground_truth_of_black_and_white_alone_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    for name in ("gt", "pred"):
        write_mask(tmp_path / f"masks/{name}.png", [[0, 255, 255, 0]])
    with pytest.raises(TrocarError, match="hold 0 and 255 alone, and 255 means: not scored"):
        mask_outcomes(path)


def test_masks_of_one_bit_are_the_classes_0_and_1(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    for name, values in (("gt", [[0, 0, 1], [0, 1, 1]]), ("pred", [[0, 1, 1], [0, 0, 1]])):
        Image.fromarray(np.array(values, dtype=bool)).save(tmp_path / f"masks/{name}.png")
    (outcome,) = mask_outcomes(path).values()
    assert outcome.confusions.tolist() == [[[2, 1], [1, 2]]]


def test_a_file_that_is_no_picture_or_not_there_is_named(tmp_path: Path) -> None:
    path = write_table(tmp_path)
    (tmp_path / "masks/pred.png").write_bytes(b"no picture")
    with pytest.raises(TrocarError, match=r"pred.png: cannot be decoded as a mask"):
        mask_outcomes(path)
    (tmp_path / "masks/pred.png").unlink()
    with pytest.raises(TrocarError, match=r"pred.png: cannot be decoded as a mask"):
        mask_outcomes(path)


def test_masks_need_class_names_and_both_columns(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match=r"give their names with --classes, or in p.json"):
        mask_outcomes(write_table(tmp_path / "a", classes=()))
    with pytest.raises(TrocarError, match="need the column `confusion`, or `gt_mask` and `pred_mask`"):
        mask_outcomes(write_table(tmp_path / "b", pred_mask=None))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2, 3, 4], [1, 2, 3]], r"K x K counts in every row, found \[3, 4\]"),
        ([[1, 2, 3], [1, 2, 3]], r"K x K counts in every row, found \[3\]"),
        ([[1, 2, 3, -4], [1, 2, 3, 4]], "K x K counts in every row"),
        (["1 2 3 4", "1 2 3 4"], "needs lists of K x K counts"),
        ([list(range(9)), list(range(9))], "2 class names, but confusions of 3 classes"),
    ],
)
def test_confusions_that_cannot_be_are_refused(tmp_path: Path, counts: list[object], message: str) -> None:
    pd.DataFrame({"task": "segmentation", "case": ["a", "b"], "confusion": counts}).to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps({"classes": {"segmentation": ["ground", "tool"]}}))
    with pytest.raises(TrocarError, match=message):
        mask_outcomes(tmp_path / "p.parquet")


def test_surfaces_and_consistency_are_read_from_the_masks_where_they_are_asked_for(tmp_path: Path) -> None:
    frames = [PRED, PRED, GT]
    for k, values in enumerate(frames):
        write_mask(tmp_path / f"masks/pred{k}.png", np.where(np.array(values) == 255, 0, values))
    write_mask(tmp_path / "masks/gt.png", PRED)
    rows = [
        {"task": "segmentation", "case": "a", "video": "v", "time_s": t, "gt_mask": "masks/gt.png", "pred_mask": name}
        for t, name in ((2, "masks/pred2.png"), (0, "masks/pred0.png"), (1, "masks/pred1.png"))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
    about = {"classes": {"segmentation": ["ground", "tool"]}, "background": {"segmentation": "ground"}}
    (tmp_path / "p.json").write_text(json.dumps(about))
    assert main(["metrics", str(tmp_path / "p.csv"), "--bootstrap", "0", "--nsd", "0", "--consistency"]) == 0
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    # Two pairs in time: equal masks, then PRED to GT; at 299 x 299 pixels, the nearest ones.
    line, column = (np.arange(299) * length // 299 for length in (2, 4))
    before, after = (np.where(np.array(m) == 255, 0, m)[line][:, column] for m in (PRED, GT))
    iou = [((before == c) & (after == c)).sum() / ((before == c) | (after == c)).sum() for c in (0, 1)]
    assert row["metrics"]["tc_iou"]["value"] == pytest.approx(np.mean([(1 + value) / 2 for value in iou]))
    assert 0 < row["metrics"]["nsd@class_then_image_no_background@0px"]["value"] < 1
    assert main(["metrics", str(tmp_path / "p.csv"), "--bootstrap", "0", "--nsd", "9"]) == 0
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert row["metrics"]["nsd@class_then_image_no_background@9px"]["value"] == 1
    assert "tc_iou" not in row["metrics"]


def test_surfaces_without_masks_and_a_negative_tolerance_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"task": "segmentation", "case": ["a"], "confusion": [np.ravel(COUNTS)]})
    table.to_parquet(tmp_path / "p.parquet")
    assert main(["metrics", str(tmp_path / "p.parquet"), "--nsd", "2"]) == 1
    assert "no masks in column `gt_mask`" in capsys.readouterr().err
    assert main(["metrics", str(tmp_path / "p.parquet"), "--nsd", "-1"]) == 2
