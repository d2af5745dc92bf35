"""predictions.parquet and files of other people's code in the same columns become the same outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from metrics_factory import random_multiclass, random_multilabel

from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.predictions.prediction_file import About, Key, Predictions, RunIndex
from trocar.downstream.predictions.prediction_scores import outcomes as outcomes_of
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


def outcomes(path: Path, task: str | None = None, classes: Sequence[str] = (), **more: Any) -> dict[Key, Any]:
    return outcomes_of(Predictions.read(path, task, classes), **more)


def only(path: Path, task: str | None = None) -> Outcome:
    (outcome,) = outcomes(path, task).values()
    assert isinstance(outcome, Outcome)
    return outcome


def test_a_written_file_comes_back_with_what_its_rows_do_not_say(tmp_path: Path) -> None:
    given = random_multiclass(0)
    about = About({"phase": given.classes}, fps=2.0, unscored={"phase": [given.classes[3]]})
    table = phase_table(given, backbone="dino", protocol="linear", replicate=1, draw=2, start=3)
    Predictions(table, about, tmp_path / "p.parquet").write()
    found = outcomes(tmp_path / "p.parquet")
    assert list(found) == [Key("phase", "dino", "linear", replicate=1, draw=2, start=3)]
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
    parts = [phase_table(given, backbone=b, replicate=s) for b in ("a", "b") for s in (0, 1)]
    pd.concat([*parts, tool_table(tools, backbone="a", replicate=0)]).to_parquet(tmp_path / "p.parquet")
    found = outcomes(tmp_path / "p.parquet")
    assert [(key.task, key.backbone, key.replicate) for key in found] == [
        ("phase", "a", 0), ("phase", "a", 1), ("phase", "b", 0), ("phase", "b", 1), ("tools", "a", 0),
    ]  # fmt: skip
    assert [key.task for key in outcomes(tmp_path / "p.parquet", "tools")] == ["tools"]


def test_other_code_tells_runs_apart_by_a_seed_which_is_read_as_the_replicate(tmp_path: Path) -> None:
    given = random_multiclass(0)
    pd.concat([phase_table(given, seed=seed) for seed in (7, 11)]).to_parquet(tmp_path / "p.parquet")
    assert [key.run for key in outcomes(tmp_path / "p.parquet")] == [RunIndex(7), RunIndex(11)]
    phase_table(given).to_parquet(tmp_path / "p.parquet")
    assert [key.run for key in outcomes(tmp_path / "p.parquet")] == [RunIndex(0, 0, 0)]


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
    "row 1: column 'gt' has class 9; there are classes 0 to 6": lambda t: t.assign(gt=9),
    "row 1: column 'gt' is empty in 3 rows": lambda t: t.assign(gt=t["gt"].where(t.index > 2)),
    "row 1: column 'gt': 0.5 is no class index": lambda t: t.assign(gt=0.5),
    "unknown class 'Closing'": lambda t: t.assign(gt="Closing"),
    "row 2: column 'scores' has lists of different lengths": lambda t: t.assign(
        scores=[s if i else s[:3] for i, s in enumerate(t["scores"])]
    ),
    "not finite": lambda t: t.assign(scores=[s * np.nan for s in t["scores"]]),
    "row 125: 2 frames are there twice": lambda t: pd.concat([t, t.head(2)]),
    "column 'case' is empty$": lambda t: t.assign(case=None),
    "row 1: column 'time_s' is empty in 3 rows": lambda t: t.assign(time_s=t["time_s"].where(t.index > 2)),
    "row 1: seed 'first': expected a number": lambda t: t.assign(seed="first"),
    "row 1: column 'seed' has values that are not whole": lambda t: t.assign(seed=0.5),
    "columns seed, draw: 'seed' is another name of 'replicate'": lambda t: t.assign(seed=0, draw=1),
    "row 1: column 'draw' has values that are not whole": lambda t: t.assign(draw=0.5),
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
    Predictions(phase_table(random_multiclass(0)), About({"phase": ["a", "b"]}), tmp_path / "p.parquet").write()
    with pytest.raises(TrocarError, match="2 class names but 7 scores"):
        outcomes(tmp_path / "p.parquet")


def test_a_file_that_is_no_table_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(TrocarError, match="cannot be read as Parquet"):
        outcomes(tmp_path / "p.parquet")
    with pytest.raises(ConfigError, match="no such file"):
        outcomes(tmp_path / "q.parquet")
    phase_table(random_multiclass(0)).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(TrocarError, match="no predictions of task 'cvs'"):
        outcomes(tmp_path / "r.parquet", "cvs")
    with pytest.raises(ConfigError, match="did you mean 'phase'"):
        outcomes(tmp_path / "r.parquet", "fase")


def numbered(first: int) -> tuple[Outcome, pd.DataFrame]:
    """Predictions of classes that are called by numbers from `first`; the last class occurs nowhere."""
    given = random_multiclass(0, classes=6)
    names = [str(first + place) for place in range(7)]
    scores = np.column_stack([given.scores, np.zeros(len(given.gt))])
    rows = phase_table(given).drop(columns="scores").assign(gt=given.gt + first, pred=given.pred + first)
    return given, rows.assign(**{f"score_{name}": scores[:, place] for place, name in enumerate(names)})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("first", [0, 1, 100])
def test_classes_that_columns_call_by_numbers_are_those_numbers(tmp_path: Path, first: int, kind: str) -> None:
    given, table = numbered(first)
    path = tmp_path / f"p.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    outcome = only(path)
    assert outcome.classes == tuple(str(first + place) for place in range(7))
    np.testing.assert_array_equal(outcome.gt, given.gt)
    np.testing.assert_array_equal(outcome.pred, given.pred)
    assert (outcome.scores.argmax(1) == outcome.pred).all()


def test_a_number_that_is_none_of_the_classes_called_by_numbers_is_refused(tmp_path: Path) -> None:
    _, table = numbered(1)
    table.assign(gt=table["gt"] - 1).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(TrocarError, match=r"column 'gt': unknown class '0'; classes are: 1, 2, 3, 4, 5, 6, 7"):
        outcomes(tmp_path / "p.csv")


def test_integers_stored_beside_a_list_of_numbers_for_names_could_be_either(tmp_path: Path) -> None:
    given = random_multiclass(0)
    phase_table(given).to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps({"classes": {"phase": list(range(1, 8))}}))
    with pytest.raises(TrocarError, match="places from 0, or names"):
        outcomes(tmp_path / "p.parquet")
    Predictions(phase_table(given), About({"phase": [str(i) for i in range(1, 8)]}), tmp_path / "own.parquet").write()
    np.testing.assert_array_equal(only(tmp_path / "own.parquet").gt, given.gt)  # our own files have places
    phase_table(given).assign(gt=(given.gt + 1).astype(str), pred=(given.pred + 1).astype(str)).to_parquet(
        tmp_path / "p.parquet"
    )
    np.testing.assert_array_equal(only(tmp_path / "p.parquet").gt, given.gt)


def test_labels_one_above_their_scores_are_refused(tmp_path: Path) -> None:
    given = random_multiclass(0)
    scores = np.column_stack([given.scores, np.zeros(len(given.gt))])
    table = phase_table(given).assign(gt=given.gt + 1, pred=given.pred + 1, scores=list(scores))
    table.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(TrocarError, match="'pred' is one more than the place of the largest score in every row"):
        outcomes(tmp_path / "p.parquet")


def test_labels_without_a_class_0_and_without_names_could_count_from_either(tmp_path: Path) -> None:
    rows = pd.DataFrame({"task": "phase", "case": "a", "gt": [1, 2, 2], "pred": [1, 1, 2]})
    rows.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(TrocarError, match=r"'gt' and 'pred' are 1 to 2, .* Give all names with --classes, such as 1,2"):
        outcomes(tmp_path / "p.csv")
    (outcome,) = outcomes(tmp_path / "p.csv", "phase", ["1", "2"]).values()
    assert (outcome.gt.tolist(), outcome.scores.shape[1]) == ([0, 1, 1], 2)
    (outcome,) = outcomes(tmp_path / "p.csv", "phase", ["0", "1", "2"]).values()
    assert (outcome.gt.tolist(), outcome.scores.shape[1]) == ([1, 2, 2], 3)


def test_names_with_zeros_before_them_are_names_too(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("task,case,gt,pred,score_01,score_02\nphase,a,01,01,1,0\nphase,a,02,2.0,0,1\n")
    with pytest.raises(TrocarError, match=r"row 2: column 'pred': unknown class '2'"):
        outcomes(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("task,case,gt,pred,score_01,score_2\nphase,a,01,01,1,0\nphase,a,01,2.0,0,1\n")
    assert only(tmp_path / "p.csv").pred.tolist() == [0, 1]


@pytest.mark.parametrize("word", ["None", "NA", "N/A", "null", "nan"])
def test_a_class_case_or_run_called_as_nothing_is_there(tmp_path: Path, word: str) -> None:
    (tmp_path / "p.csv").write_text(
        f"task,backbone,case,time_s,gt,pred,score_cut,score_{word}\n"
        f"phase,{word},{word},0,{word},{word},.1,.9\nphase,{word},001,1,cut,cut,.8,.2\nphase,{word},1,1,cut,cut,.8,.2\n"
    )
    ((key, outcome),) = outcomes(tmp_path / "p.csv").items()
    assert key.backbone == word
    assert (outcome.classes, sorted(outcome.gt.tolist()), outcome.cases) == (("cut", word), [0, 0, 1], 3)


def test_scores_that_are_no_probabilities_are_said_with_their_row(tmp_path: Path) -> None:
    given, said = random_multiclass(0), list[str]()
    scores = [row * (1 + 4 * (place == 2)) for place, row in enumerate(given.scores)]
    phase_table(given).assign(scores=scores).to_parquet(tmp_path / "p.parquet")
    outcomes(tmp_path / "p.parquet", say=said.append)
    assert len(said) == 1
    assert said[0].startswith(f"phase: the scores of 1 of {len(scores)} rows are no probabilities (row 3: ")
    assert said[0].endswith("); ece, brier and nll are left out")


def test_scores_that_are_no_probabilities_have_no_threshold(tmp_path: Path) -> None:
    given = random_multilabel(0)
    table = tool_table(given).assign(scores=list(given.scores * 10 - 5))
    table.drop(columns="pred_labels").to_parquet(tmp_path / "p.parquet")
    with pytest.raises(TrocarError, match=r"row 1: scores are no probabilities, so 0\.5 is no threshold"):
        outcomes(tmp_path / "p.parquet")
    table.to_parquet(tmp_path / "p.parquet")
    assert only(tmp_path / "p.parquet").scores.min() < 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("time_s", "-1", "row 2: time_s '-1': expected a number from 0"),
        ("time_s", "1,5", r"row 2: time_s '1,5': expected a number; numbers have a decimal point"),
        ("score_cut", "a", "row 2: score_cut 'a': expected a number"),
        ("score_cut", "nan", "row 2: score_cut 'nan': expected a number"),
        ("score_cut", "", r"row 2: column 'score_': 1 frames have values that are not finite numbers"),
        ("gt", "1.5", r"row 2: column 'gt': unknown class '1\.5'"),
        ("gt", "", r"row 2: column 'gt' is empty in 1 rows"),
    ],
)
def test_a_cell_that_cannot_be_is_named_with_its_row(tmp_path: Path, column: str, value: str, message: str) -> None:
    rows = pd.DataFrame({"task": "phase", "case": "a", "time_s": ["0", "1"], "gt": "cut", "score_cut": "1"})
    rows.loc[1, column] = value
    rows.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(TrocarError, match=message):
        outcomes(tmp_path / "p.csv")


def test_means_of_annotators_lie_between_0_and_1(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("task,case,gt_a,score_a,soft_a\ncvs,1,1,.5,1\ncvs,1,0,.5,3\n")
    with pytest.raises(TrocarError, match="row 2: gt_soft is a mean of 0 and 1"):
        outcomes(tmp_path / "p.csv")
