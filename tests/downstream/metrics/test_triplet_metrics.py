"""Triplet AP against scikit-learn, class by class and video by video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from metrics_factory import triplet_outcome
from sklearn.metrics import average_precision_score

from trocar.downstream.metrics.multilabel import PLACES, ap_global, ap_video, component
from trocar.downstream.metrics.outcome import Outcome
from trocar.downstream.metrics.registry import metrics_of


def reference(outcome: Outcome, which: str, video: bool, ignore_null: bool = False) -> float:
    names = [name.split(",") for name in outcome.classes]
    keys = sorted({tuple(name[p] for p in PLACES[which]) for name in names})
    parts = outcome.rows_of_case if video else [np.arange(len(outcome.case))]
    per_class = []
    for key in keys:
        if ignore_null and "null_verb" in key and "null_target" in key:
            continue
        columns = [i for i, name in enumerate(names) if tuple(name[p] for p in PLACES[which]) == key]
        values = []
        for rows in parts:
            gt, scores = outcome.gt[rows][:, columns].max(1), outcome.scores[rows][:, columns].max(1)
            if gt.any():
                values.append(average_precision_score(gt, scores))
        if values:
            per_class.append(np.mean(values))
    return float(np.mean(per_class))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("which", list(PLACES))
def test_every_component_equals_scikit_learn(seed: int, which: str) -> None:
    outcome = triplet_outcome(seed)
    assert ap_video(outcome, which=which) == pytest.approx(reference(outcome, which, video=True))
    assert ap_global(outcome, which=which) == pytest.approx(reference(outcome, which, video=False))


def test_null_triplets_are_kept_unless_ignored() -> None:
    # The last class of the factory is absent: make it occur.
    outcome = triplet_outcome(1)
    gt = outcome.gt.copy()
    gt[::7, -1] = 1
    outcome = replace(outcome, gt=gt)
    kept, ignored = (ap_video(outcome, which="ivt", ignore_null=flag) for flag in (False, True))
    assert kept == pytest.approx(reference(outcome, "ivt", video=True))
    assert ignored == pytest.approx(reference(outcome, "ivt", video=True, ignore_null=True))
    assert kept != pytest.approx(ignored)
    expected = reference(outcome, "ivt", video=False, ignore_null=True)
    assert ap_global(outcome, which="ivt", ignore_null=True) == pytest.approx(expected)


def test_a_component_is_the_maximum_over_its_triplets_by_hand() -> None:
    # Instrument a: triplets 0 and 1. Frame 0 shows a, frames 1 and 2 show b.
    gt = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    scores = np.array([[0.1, 0.6, 0.2], [0.5, 0.3, 0.9], [0.7, 0.1, 0.1]])
    outcome = Outcome(gt, gt, scores, np.zeros(3, dtype=np.int64), classes=("a,x,t", "a,y,t", "b,x,u"))
    instruments = component(outcome, "i")
    assert instruments.classes == ("a", "b")
    np.testing.assert_array_equal(instruments.scores, [[0.6, 0.2], [0.5, 0.9], [0.7, 0.1]])
    # a ranks second (AP 1/2); b is ranked 1 and 3 ((1 + 2/3) / 2).
    assert ap_video(outcome, which="i") == pytest.approx((1 / 2 + 5 / 6) / 2)


def test_an_absent_triplet_never_counts_as_zero() -> None:
    outcome = triplet_outcome(2)
    assert not outcome.gt[:, -1].any()
    perfect = replace(outcome, scores=outcome.gt.astype(float))
    for which in PLACES:
        assert ap_video(perfect, which=which) == pytest.approx(1.0)
        assert ap_global(perfect, which=which) == pytest.approx(1.0)


def test_classes_that_are_not_triplets_get_no_triplet_metric() -> None:
    assert metrics_of("triplet", replace(triplet_outcome(0), classes=())) == {}


@pytest.mark.data
def test_the_hundred_triplets_of_cholect50_have_the_published_components(shared_data: Path) -> None:
    file = shared_data / "cholect50_val" / "labels" / "VID68.json"
    if not file.is_file():
        pytest.skip(f"no CholecT50 labels at {file}")
    table = json.loads(file.read_text(encoding="utf-8"))["categories"]["triplet"]
    names = tuple(table[str(i)] for i in range(100))
    gt = np.eye(100, dtype=np.int64)
    outcome = Outcome(gt, gt, gt.astype(float), np.zeros(100, dtype=np.int64), classes=names)
    sizes = {which: len(component(outcome, which).classes) for which in PLACES}
    assert sizes == {"i": 6, "v": 10, "t": 15, "iv": 26, "it": 59, "ivt": 100}
    null = [i for i, name in enumerate(names) if "null_verb" in name and "null_target" in name]
    assert null == list(range(94, 100))
