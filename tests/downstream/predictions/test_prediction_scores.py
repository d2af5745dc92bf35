"""Scores of several runs: their mean, its interval, and where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from trocar.downstream.metrics.outcome import bootstrap_interval
from trocar.downstream.metrics.phase import accuracy_pooled
from trocar.downstream.predictions.prediction_file import About, Predictions
from trocar.downstream.predictions.prediction_scores import ContenderScores, PredictionScores, outcomes
from trocar.errors import TrocarError

CLASSES = ("first", "second", "never")


def rows(pred: list[int], replicate: int, cases: str = "abcd") -> pd.DataFrame:
    """Frames of class 0 and 1 in turn, as many of each case."""
    case = np.repeat(list(cases), len(pred) // len(cases))
    gt = np.arange(len(pred)) % 2
    run = {"task": "phase", "backbone": "net", "protocol": "knn", "replicate": replicate, "draw": 0, "start": 0}
    return pd.DataFrame({**run, "case": case, "time_s": np.arange(len(pred)) * 1.0, "gt": gt, "pred": pred})


def of(*tables: pd.DataFrame, draws: int = 200) -> tuple[Predictions, ContenderScores]:
    predictions = Predictions(pd.concat(tables, ignore_index=True), About({"phase": CLASSES}, 1.0), Path("p.parquet"))
    (found,) = PredictionScores.of(predictions, draws).contenders.values()
    return predictions, found


ONE, OTHER = [0, 1, 0, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1, 1, 1]


def test_the_interval_of_a_mean_is_that_of_the_mean_on_every_draw_of_cases() -> None:
    predictions, found = of(rows(ONE, 0), rows(OTHER, 1))
    assert found.values("accuracy@pooled") == [6 / 8, 5 / 8]
    assert found.mean("accuracy@pooled") == pytest.approx(11 / 16)
    assert found.deviation("accuracy@pooled") == pytest.approx(np.std([6 / 8, 5 / 8], ddof=1))
    expected = bootstrap_interval(accuracy_pooled, list(outcomes(predictions).values()), draws=200)
    assert found.interval("accuracy@pooled") == expected
    assert expected is not None


def test_runs_on_other_cases_have_a_mean_and_no_interval_of_it() -> None:
    _, found = of(rows(ONE, 0), rows(OTHER, 1, cases="abce"))
    assert found.mean("accuracy@pooled") == pytest.approx(11 / 16)
    assert found.interval("accuracy@pooled") is None
    assert all(run.interval("accuracy@pooled") is not None for run in found.runs)


def test_two_cases_or_no_draws_have_no_interval() -> None:
    assert of(rows(ONE, 0, cases="ab"))[1].interval("accuracy@pooled") is None
    assert of(rows(ONE, 0), draws=0)[1].interval("accuracy@pooled") is None


def test_a_class_has_the_mean_over_the_runs_in_which_it_occurs() -> None:
    _, found = of(rows(ONE, 0), rows(OTHER, 1))
    truth = np.arange(8) % 2
    scores = []
    for pred in (np.array(ONE), np.array(OTHER)):
        hit = int(((pred == 0) & (truth == 0)).sum())
        scores.append(2 * hit / (int((pred == 0).sum()) + 4))
    classes = found.per_class()
    assert classes["first"] == pytest.approx(np.mean(scores))
    assert classes["never"] is None


def test_a_metric_that_means_nothing_for_a_run_is_undefined_and_left_out_of_the_names() -> None:
    _, found = of(rows(ONE, 0))
    assert "map" not in found.names  # labels alone, no scores
    assert np.isnan(found.values("map")).all()
    assert found.interval("map") is None


def test_frames_of_masks_that_are_there_twice_are_refused() -> None:
    row = {"task": "segmentation", "backbone": "", "protocol": "", "replicate": 0, "draw": 0, "start": 0}
    table = pd.DataFrame([{**row, "case": "a", "time_s": 0.0, "confusion": [1, 0, 0, 1]}] * 2)
    with pytest.raises(TrocarError, match="1 frames are there twice"):
        outcomes(Predictions(table, About(), Path("p.parquet")))
