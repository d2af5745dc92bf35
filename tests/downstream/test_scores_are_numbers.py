"""Scores with NaN among them are an error of the evaluation, whichever protocol gave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from downstream_factory import make_folder
from finished_factory import settings

from trocar.downstream.protocols.base import Prediction, Problem
from trocar.downstream.protocols.probes import KNN
from trocar.errors import TrocarError
from trocar.jobs.evaluate import evaluate


def test_scores_that_are_not_finite_end_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "data")

    def diverged(self: KNN, problem: Problem) -> Prediction:
        scores = np.full((len(problem.test), len(problem.space.classes)), 0.5)
        scores[3:5] = np.nan
        return Prediction(scores)

    monkeypatch.setattr(KNN, "predict", diverged)
    config = settings(tmp_path, "out", backbone=[], task=["phase"], protocol=["knn"], baselines=["mean colour"])
    with pytest.raises(TrocarError, match=r"^mean colour, knn: the scores of 2 of \d+ test frames are NaN"):
        evaluate(config)
    assert not (tmp_path / "out" / "results.json").exists()
