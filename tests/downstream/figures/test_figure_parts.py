"""The numbers behind the pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figure_factory import TASKS, phase_rows, tool_rows

from trocar.downstream.figures.curves import _panels, bins, curves
from trocar.downstream.figures.phases import _minutes, row_shares, runs
from trocar.downstream.figures.style import colour, hatch, line, shortened, shown
from trocar.downstream.metrics.calibration import ece
from trocar.downstream.metrics.outcome import Outcome


def test_runs_cover_the_time_of_their_frames() -> None:
    found = list(runs(np.array([0, 0, 1, 1, 1, 0]), np.arange(6) / 60, 1.0))
    assert [label for *_, label in found] == [0, 1, 0]
    np.testing.assert_allclose(
        [(60 * start, 60 * length) for start, length, _ in found], [(0, 2), (2, 3), (5, 1)], atol=1e-9
    )


def test_a_hole_in_the_labels_ends_a_run_and_stays_empty() -> None:
    found = list(runs(np.array([0, 0, 0]), np.array([0, 1, 60]) / 60, 1.0))
    np.testing.assert_allclose([(60 * start, 60 * length) for start, length, _ in found], [(0, 2), (60, 1)], atol=1e-9)


def test_videos_of_one_case_follow_each_other() -> None:
    rows = phase_rows([0] * 4, [0] * 4).assign(video=["a", "a", "b", "b"], time_s=[5.0, 6.0, 0.0, 1.0])
    assert (_minutes(rows, 1.0) * 60).tolist() == pytest.approx([5, 6, 7, 8])


def test_rows_of_a_confusion_matrix_sum_to_one_and_an_absent_class_has_none() -> None:
    shares = row_shares(np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2]]))
    assert shares[0].tolist() == [0.75, 0.25, 0]
    assert np.isnan(shares[1]).all()
    assert shares[2].sum() == 1


def test_bins_hold_what_a_literal_loop_puts_into_them_and_their_error_is_the_metric() -> None:
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.random(500), [0.0, 1.0, 1 / 15, 2 / 15]])[:, None]
    gt = (generator.random(scores.shape) < scores**2).astype(np.int64)
    (found,) = bins(gt, scores)
    p, true = scores[:, 0], gt[:, 0] == 1
    for k in range(15):
        inside = (p >= np.linspace(0, 1, 16)[k]) & ((p < np.linspace(0, 1, 16)[k + 1]) | (k == 14))
        assert found.counts[k] == inside.sum()
        assert found.confidence[k] == pytest.approx(p[inside].mean())
        assert found.accuracy[k] == pytest.approx(true[inside].mean())
    assert found.ece == pytest.approx(ece(Outcome(gt, gt, scores, np.zeros(len(gt), dtype=np.int64))))


def test_of_one_label_a_frame_the_most_probable_class_counts_and_an_empty_bin_is_undefined() -> None:
    (found,) = bins(np.array([0, 1]), np.array([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1]]))
    assert found.counts.tolist() == [0] * 7 + [2] + [0] * 7
    assert (found.confidence[7], found.accuracy[7]) == (0.5, 0.5)
    assert np.isnan(found.accuracy).sum() == 14
    assert found.ece == 0


def test_a_class_that_does_not_occur_has_no_curve() -> None:
    table = tool_rows([[1, 0, 0], [0, 1, 0], [1, 1, 0]], [[0.9, 0.8, 0.1], [0.2, 0.7, 0.1], [0.8, 0.9, 0.1]])
    (one,) = shown(table, TASKS)
    found = {curve.name: curve for curve in curves(one)}
    assert found.keys() == {"Grasper", "Hook"}
    assert found["Grasper"].ap == 1
    # Ranked 3, 1, 2: hits at ranks one and three.
    assert found["Hook"].ap == pytest.approx((1 + 2 / 3) / 2)
    assert (found["Hook"].positives, found["Hook"].chance) == (2, pytest.approx(2 / 3))


def test_of_many_classes_the_best_and_the_worst_are_shown() -> None:
    generator = np.random.default_rng(0)
    gt = (generator.random((200, 40)) < 0.3).astype(int)
    gt[:, 39] = 0
    scores = gt * np.linspace(0, 1, 40) + generator.random((200, 40))
    table = tool_rows(gt.tolist(), (scores / 2).tolist())
    (one,) = shown(table, {"tools": {"classes": [f"class {k}" for k in range(40)]}})
    found = curves(one)
    (best_title, best), (_, worst) = _panels(found, 1)
    assert best_title == "best 6 of 39 (1 do not occur)"
    order = sorted(curve.ap for curve in found)
    assert [curve.ap for curve in best] == order[:-7:-1]
    assert [curve.ap for curve in worst] == order[5::-1]


def test_64_classes_differ_in_colour_or_hatch_and_neighbours_in_line() -> None:
    assert len({(colour(k), hatch(k)) for k in range(64)}) == 64
    assert all(line(k) != line(k + 1) for k in range(20))


def test_a_long_name_keeps_both_ends() -> None:
    assert shortened("gallbladder") == "gallbladder"
    short = shortened("grasper,retract,abdominal_wall_cavity", 20)
    assert len(short) == 20
    assert short.startswith("grasper,re")
    assert short.endswith("ll_cavity")


def test_tables_with_several_tasks_are_divided_by_task() -> None:
    table = pd.concat([phase_rows([0, 1], [0, 1]), tool_rows([[1, 0, 0]], [[0.9, 0.1, 0]])])
    found = [(one.task, one.single, len(one.gt)) for one in shown(table, TASKS)]
    assert found == [("phase", True, 2), ("tools", False, 1)]
