"""PitVis instruments: the intended score and the challenge script's."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_factory import labelled
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from trocar.downstream.metrics.compute import compute_multitask
from trocar.downstream.metrics.outcome import Ints, Outcome
from trocar.downstream.metrics.pitvis import instruments
from trocar.downstream.metrics.registry import metrics_of


def two_hot(frames: list[list[int]]) -> Ints:
    labels = np.zeros((len(frames), 19), dtype=np.int64)
    for row, found in zip(labels, frames, strict=True):
        row[found] = 1
    return labels


def one_case(gt: list[list[int]], pred: list[list[int]]) -> Outcome:
    return Outcome(two_hot(gt), two_hot(pred), two_hot(pred).astype(float), np.zeros(len(gt), dtype=np.int64))


def script(gt: list[list[int]], pred: list[list[int]]) -> float:
    """What the challenge's procedure amounts to: columns from the classes found, the rest appended as zeros."""
    encoded = []
    for frames in (gt, pred):
        binarizer = MultiLabelBinarizer()
        found = binarizer.fit_transform(frames)
        encoded.append(np.pad(found, ((0, 0), (0, 19 - found.shape[1]))))
    return float(f1_score(*encoded, average="weighted", zero_division=1))


GT = [[0], [2], [2], [4], [4]]


def test_perfect_instruments_score_one_both_ways() -> None:
    assert instruments(one_case(GT, GT), official=True) == 1.0
    assert instruments(one_case(GT, GT), official=False) == 1.0


def test_one_false_alarm_of_an_absent_instrument_costs_half_of_the_official_score() -> None:
    alarm = one_case(GT, [[0], [1, 2], [2], [4], [4]])
    assert round(instruments(alarm, official=True), 3) == 0.467
    assert instruments(alarm, official=False) == 1.0  # weighted by truth: an absent instrument weighs nothing


@pytest.mark.parametrize("seed", range(5))
def test_the_official_score_equals_the_script(seed: int) -> None:
    generator = np.random.default_rng(seed)
    gt = [generator.choice(8, generator.integers(1, 3), replace=False).tolist() for _ in range(30)]
    pred = [generator.choice(10, generator.integers(1, 3), replace=False).tolist() for _ in range(30)]
    assert instruments(one_case(gt, pred), official=True) == pytest.approx(script(gt, pred))


def test_frames_out_of_the_patient_do_not_count() -> None:
    outside = one_case([*GT, []], [*GT, [7]])
    assert instruments(outside, official=False) == 1.0
    assert instruments(outside, official=True) == 1.0


def test_the_multitask_score_is_the_mean_of_steps_and_instruments() -> None:
    steps = labelled([0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0] * 5)
    alarm = one_case(GT, [[0], [1, 2], [2], [4], [4]])
    found = compute_multitask(steps, alarm, draws=0)
    assert found["multitask@pitvis"]["value"] == pytest.approx(1.0)
    assert found["multitask@pitvis_official"]["value"] == pytest.approx((1 + 7 / 15) / 2)


def test_other_tools_get_no_pitvis_score() -> None:
    tools = Outcome(np.eye(7, dtype=np.int64), np.eye(7, dtype=np.int64), np.eye(7), np.arange(7))
    assert not [name for name in metrics_of("tools", tools) if "pitvis" in name]
    assert compute_multitask(labelled([0], [0], [0]), tools, draws=0) == {}
