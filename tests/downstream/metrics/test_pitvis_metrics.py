"""PitVis instruments: the intended score and the challenge script's."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_factory import labelled

from trocar.downstream.metrics.challenges import instruments
from trocar.downstream.metrics.outcome import Ints, Outcome
from trocar.downstream.metrics.registry import metrics_of, multitask_metrics


def two_hot(frames: list[list[int]]) -> Ints:
    labels = np.zeros((len(frames), 19), dtype=np.int64)
    for row, found in zip(labels, frames, strict=True):
        row[found] = 1
    return labels


def one_case(gt: list[list[int]], pred: list[list[int]]) -> Outcome:
    return Outcome(two_hot(gt), two_hot(pred), two_hot(pred).astype(float), np.zeros(len(gt), dtype=np.int64))


def script(gt: list[list[int]], pred: list[list[int]]) -> float:
    """The challenge's procedure by hand: each side's columns are the instruments it has, then the others; F1 of column
    c of the truth and column c of the prediction, weighted by the truth.
    """
    columns = []
    for frames in (gt, pred):
        found = sorted({i for frame in frames for i in frame})
        columns.append([*found, *(i for i in range(19) if i not in found)])
    score = weight = 0.0
    for true, guessed in zip(*columns, strict=True):
        actual, predicted = [true in f for f in gt], [guessed in f for f in pred]
        both = sum(a and p for a, p in zip(actual, predicted, strict=True))
        total = sum(actual) + sum(predicted)
        score += sum(actual) * (2 * both / total if total else 1.0)
        weight += sum(actual)
    return score / weight


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
    gt = [generator.choice(8, generator.integers(0, 3), replace=False).tolist() for _ in range(30)]
    pred = [generator.choice(10, generator.integers(0, 3), replace=False).tolist() for _ in range(30)]
    assert instruments(one_case(gt, pred), official=True) == pytest.approx(script(gt, pred))


def test_a_false_alarm_out_of_the_patient_counts_as_in_the_script_of_12_september_2023() -> None:
    """Two seconds with suction, found; two out of the patient that are called suction: precision 2 / 4, recall 1."""
    outside = one_case([[16], [16], [], []], [[16], [16], [16], [16]])
    assert instruments(outside, official=True) == pytest.approx(2 * 0.5 / 1.5)
    assert instruments(outside, official=False) == pytest.approx(2 * 0.5 / 1.5)
    assert script([[16], [16], [], []], [[16], [16], [16], [16]]) == pytest.approx(2 / 3)
    steps = labelled([0, 0, 1, 1], [0, 0, 1, 1], [0] * 4)
    found = multitask_metrics(steps, outside)
    assert found["multitask@pitvis_official"](steps, None) == pytest.approx((1 + 2 / 3) / 2)


def test_the_multitask_score_is_the_mean_of_steps_and_instruments() -> None:
    steps = labelled([0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0] * 5)
    alarm = one_case(GT, [[0], [1, 2], [2], [4], [4]])
    found = multitask_metrics(steps, alarm)
    assert found["multitask@pitvis"](steps, None) == pytest.approx(1.0)
    assert found["multitask@pitvis_official"](steps, None) == pytest.approx((1 + 7 / 15) / 2)


def test_other_tools_get_no_pitvis_score() -> None:
    tools = Outcome(np.eye(7, dtype=np.int64), np.eye(7, dtype=np.int64), np.eye(7), np.arange(7))
    assert not [name for name in metrics_of("tools", tools) if "pitvis" in name]
    assert multitask_metrics(labelled([0], [0], [0]), tools) == {}
