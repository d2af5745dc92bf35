"""predictions.parquet and files of other people's code in the same columns become the same outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from metrics_factory import random_multiclass, random_multilabel

from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.predictions import About, Key, outcomes, write_predictions
from trocar.errors import ConfigError, TrocarError


def phase_table(outcome: Outcome, **more: Any) -> pd.DataFrame:
    """The rows of an outcome at 2 frames per second; cases are named a, b, c, d."""
    time = np.concatenate([np.arange(len(rows)) / 2 for rows in outcome.rows_of_case])
    case = np.array(list("abcd"))[outcome.case]
    columns = {"task": "phase", "case": case, "video": case, "time_s": time, "gt": outcome.gt, "pred": outcome.pred}
    return pd.DataFrame({**columns, "scores": list(outcome.scores), **more})


def tool_table(outcome: Outcome, **more: Any) -> pd.DataFrame:
    lists = {"gt_labels": list(outcome.gt), "pred_labels": list(outcome.pred), "scores": list(outcome.scores)}
    case = np.array(list("abcd"))[outcome.case]
    return pd.DataFrame({"task": "tools", "case": case, **lists, **more})


def only(path: Path, task: str | None = None) -> Outcome:
    (outcome,) = outcomes(path, task).values()
    return outcome


def test_a_written_file_comes_back_with_what_its_rows_do_not_say(tmp_path: Path) -> None:
    given = random_multiclass(0)
    about = About({"phase": given.classes}, fps=2.0, unscored={"phase": [given.classes[3]]})
    write_predictions(phase_table(given, backbone="dino", protocol="linear", seed=1), tmp_path / "p.parquet", about)
    found = outcomes(tmp_path / "p.parquet")
    assert list(found) == [Key("phase", "dino", "linear", 1)]
    (outcome,) = found.values()
    for name in ("gt", "pred", "scores", "case"):
        np.testing.assert_array_equal(getattr(outcome, name), getattr(given, name))
    assert (outcome.classes, outcome.fps, outcome.unscored) == (given.classes, 2.0, (3,))
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_a_plain_file_takes_its_rate_from_the_times(tmp_path: Path) -> None:
    phase_table(random_multiclass(0)).to_parquet(tmp_path / "p.parquet")
    outcome = only(tmp_path / "p.parquet")
    assert outcome.fps == 2.0
    assert outcome.classes == ()


def test_a_sidecar_names_classes_of_a_plain_file(tmp_path: Path) -> None:
    given = random_multiclass(0)
    phase_table(given).to_parquet(tmp_path / "p.parquet")
    about = {"classes": {"phase": list(given.classes)}, "fps": 25}
    (tmp_path / "p.json").write_text(json.dumps(about), encoding="utf-8")
    outcome = only(tmp_path / "p.parquet")
    assert (outcome.classes, outcome.fps) == (given.classes, 25.0)


def test_rows_in_any_order_become_cases_in_time_order(tmp_path: Path) -> None:
    given = random_multiclass(1)
    phase_table(given).sample(frac=1, random_state=0).to_parquet(tmp_path / "p.parquet")
    outcome = only(tmp_path / "p.parquet")
    np.testing.assert_array_equal(outcome.gt, given.gt)
    np.testing.assert_array_equal(outcome.scores, given.scores)


def test_videos_of_a_case_stay_in_the_order_they_are_listed(tmp_path: Path) -> None:
    rows = {"task": "phase", "case": "x", "video": ["z", "z", "a", "a"], "time_s": [0, 1, 0, 1], "gt": [0, 1, 2, 3]}
    pd.DataFrame({**rows, "pred": 0}).to_parquet(tmp_path / "p.parquet")
    assert only(tmp_path / "p.parquet").gt.tolist() == [0, 1, 2, 3]


def test_a_csv_with_a_column_per_class_and_class_names_as_labels(tmp_path: Path) -> None:
    given = random_multiclass(0)
    table = phase_table(given).drop(columns=["scores", "task", "pred"])
    table["gt"] = np.array(given.classes)[given.gt]
    for i, name in enumerate(given.classes):
        table[f"score_{name}"] = given.scores[:, i]
    table.to_csv(tmp_path / "p.csv", index=False)
    outcome = only(tmp_path / "p.csv", "phase")
    assert outcome.classes == given.classes
    np.testing.assert_array_equal(outcome.gt, given.gt)
    np.testing.assert_array_equal(outcome.pred, given.pred)
    np.testing.assert_allclose(outcome.scores, given.scores)


def test_a_csv_of_several_labels_and_annotators(tmp_path: Path) -> None:
    given = random_multilabel(0, classes=3)
    assert given.soft is not None
    table = pd.DataFrame({"task": "cvs", "case": given.case})
    for i, name in enumerate(("two structures", "triangle", "plate")):
        table[f"gt_{name}"], table[f"score_{name}"] = given.gt[:, i], given.scores[:, i]
        table[f"soft_{name}"] = given.soft[:, i]
    table.to_csv(tmp_path / "p.csv", index=False)
    outcome = only(tmp_path / "p.csv")
    assert outcome.classes == ("two structures", "triangle", "plate")
    np.testing.assert_array_equal(outcome.gt, given.gt)
    np.testing.assert_array_equal(outcome.pred, given.pred)
    np.testing.assert_allclose(outcome.soft, given.soft)


def test_labels_alone_are_enough_for_one_label_a_frame(tmp_path: Path) -> None:
    given = random_multiclass(0)
    phase_table(given).drop(columns="scores").to_csv(tmp_path / "p.csv", index=False)
    outcome = only(tmp_path / "p.csv")
    np.testing.assert_array_equal(outcome.pred, given.pred)
    assert np.isnan(outcome.scores).all()


def test_several_arms_seeds_and_tasks_in_one_file(tmp_path: Path) -> None:
    given, tools = random_multiclass(0), random_multilabel(0)
    parts = [phase_table(given, backbone=b, seed=s) for b in ("a", "b") for s in (0, 1)]
    pd.concat([*parts, tool_table(tools, backbone="a", seed=0)]).to_parquet(tmp_path / "p.parquet")
    found = outcomes(tmp_path / "p.parquet")
    assert [(key.task, key.backbone, key.seed) for key in found] == [
        ("phase", "a", 0), ("phase", "a", 1), ("phase", "b", 0), ("phase", "b", 1), ("tools", "a", 0),
    ]  # fmt: skip
    assert [key.task for key in outcomes(tmp_path / "p.parquet", "tools")] == ["tools"]


def test_folds_are_numbered(tmp_path: Path) -> None:
    given = random_multilabel(0)
    tool_table(given, fold=[f"fold {c % 2}" for c in given.case]).to_parquet(tmp_path / "p.parquet")
    np.testing.assert_array_equal(only(tmp_path / "p.parquet").fold, given.fold)


BROKEN = {
    "no column 'case'": lambda t: t.drop(columns="case"),
    "no column 'task'": lambda t: t.drop(columns="task"),
    "no column 'gt'": lambda t: t.drop(columns="gt"),
    "'pred' or 'scores'": lambda t: t.drop(columns=["pred", "scores"]),
    "did you mean 'phase'": lambda t: t.assign(task="phases"),
    "class 9; there are classes 0 to 6": lambda t: t.assign(gt=9),
    "column 'gt' is empty in 3 rows": lambda t: t.assign(gt=t["gt"].where(t.index > 2)),
    "not class indices": lambda t: t.assign(gt=0.5),
    "unknown class 'Closing'": lambda t: t.assign(gt="Closing"),
    "lists of different lengths": lambda t: t.assign(scores=[s if i else s[:3] for i, s in enumerate(t["scores"])]),
    "not finite": lambda t: t.assign(scores=[s * np.nan for s in t["scores"]]),
    "frames are there twice": lambda t: pd.concat([t, t.head(2)]),
    "column 'case' is empty$": lambda t: t.assign(case=None),
    "column 'time_s' is empty in 3 rows": lambda t: t.assign(time_s=t["time_s"].where(t.index > 2)),
    "column 'seed' has values that are not whole": lambda t: t.assign(seed="first"),
    "column 'seed' is empty in": lambda t: t.assign(seed=np.where(t.index > 2, 0, np.nan)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_wrong_is_said(tmp_path: Path, message: str) -> None:
    BROKEN[message](phase_table(random_multiclass(0))).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(TrocarError, match=message) as error:
        outcomes(tmp_path / "p.parquet")
    assert "p.parquet" in str(error.value)


def test_labels_of_several_annotators_do_not_pass_for_labels(tmp_path: Path) -> None:
    given = random_multilabel(0)
    tool_table(given).assign(gt_labels=list(given.scores)).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(TrocarError, match="put means of several annotators in 'gt_soft'"):
        outcomes(tmp_path / "p.parquet")


def test_names_and_scores_must_agree_in_number(tmp_path: Path) -> None:
    write_predictions(phase_table(random_multiclass(0)), tmp_path / "p.parquet", About({"phase": ["a", "b"]}))
    with pytest.raises(TrocarError, match="2 class names but 7 scores"):
        outcomes(tmp_path / "p.parquet")


def test_a_file_that_is_no_table_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(TrocarError, match="cannot be read as predictions"):
        outcomes(tmp_path / "p.parquet")
    with pytest.raises(ConfigError, match="no such file"):
        outcomes(tmp_path / "q.parquet")
    phase_table(random_multiclass(0)).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(TrocarError, match="no predictions of task 'cvs'"):
        outcomes(tmp_path / "r.parquet", "cvs")
    with pytest.raises(ConfigError, match="did you mean 'phase'"):
        outcomes(tmp_path / "r.parquet", "fase")
