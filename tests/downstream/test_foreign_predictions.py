"""Somebody else's CSV: what is missing is named, and what it is probably called there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trocar.cli.main import main

NAMED = "case,frame,gt,pred\nv1,0,Cutting,Cutting\nv1,1,Preparation,Cutting\nv2,0,Preparation,Preparation\n"
TOOLS = "case,frame,gt_Hook,prob_Hook\nv1,0,1,.5\nv1,1,0,.5\n"


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        ("video,gt,pred\na,0,0\n", [], "no column 'task'; add it or say --task (cvs, phase"),
        ("video,gt,pred\na,0,0\n", ["--task", "phase"], "no column 'case' (is it 'video'? rename it)"),
        ("case,label,pred\na,0,0\n", ["--task", "phase"], "no column 'gt' (is it 'label'? rename it)"),
        ("case,phase_gt,phase_pred\na,0,0\n", ["--task", "phase"], "no column 'gt' (is it 'phase_gt'? rename it)"),
        ("case,gt,y_pred\na,0,0\n", ["--task", "phase"], "no column 'pred' (is it 'y_pred'? rename it)"),
        ("case,gt,what\na,0,0\n", ["--task", "phase"], "no column 'pred'; needs 'gt' (class index or name) and 'pred'"),
        (TOOLS, ["--task", "tools"], "no columns 'score_<class>' (is it 'prob_Hook'? rename it)"),
        (TOOLS, ["--task", "tools"], "found case, frame, gt_Hook, prob_Hook\n"),
        ("case;gt;pred\na;0;0\n", ["--task", "phase"], "its columns are separated by ';'"),
        ("case,gt,pred\na,0,0\n", ["--task", "segmentation"], "`gt_mask` and `pred_mask`; found case, gt, pred"),
        (NAMED, ["--task", "phase"], "row 1: column 'gt': unknown class 'Cutting': the file does not say which"),
        (NAMED, ["--task", "phase"], 'with --classes NAME,NAME,..., or in p.json: {"classes": {"phase": [...]}}'),
        (NAMED, ["--task", "phase", "--classes", "Preparing,Cutting"], "'Preparation' (did you mean 'Preparing'?)"),
    ],
)
def test_a_column_or_class_that_is_not_known_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str], says: str
) -> None:
    (tmp_path / "p.csv").write_text(text)
    assert main(["metrics", str(tmp_path / "p.csv"), *words]) == 1
    assert says in capsys.readouterr().err


def test_class_names_are_given_on_the_command_line_in_the_order_of_their_indices(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(NAMED)
    words = ["--task", "phase", "--classes", "Preparation, Cutting, Never", "--bootstrap", "0"]
    assert main(["metrics", str(tmp_path / "p.csv"), *words]) == 0
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    assert row["metrics"]["accuracy@pooled"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("classes", "says"),
    [("a,b", "has phase, tools; say of which with --task"), ("a,a", "each class once"), ("a,,b", "each class once")],
)
def test_class_names_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str, says: str
) -> None:
    (tmp_path / "p.csv").write_text("task,case,gt,pred\nphase,a,0,0\ntools,a,0,0\n")
    words = ["--task", "phase"] if "once" in says else []
    assert main(["metrics", str(tmp_path / "p.csv"), "--classes", classes, *words]) == 2
    assert says in capsys.readouterr().err
