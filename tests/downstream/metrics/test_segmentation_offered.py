"""Tables lead without the background where one is declared, and say nothing of one where none is."""

from __future__ import annotations

import numpy as np
import pytest

from trocar.downstream.labels import LabelSpace
from trocar.downstream.metrics.outcome import AnyMetric, SegmentationOutcome
from trocar.downstream.metrics.registry import metrics_of, surface_metrics
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS
from trocar.downstream.tasks.own_tasks import SEGMENTATION

COUNTS = np.array([[[6, 2, 0], [1, 3, 0], [0, 4, 84]]])
"""Row truth, column prediction; IoU 6/9, 3/10 and 84/88."""


def outcome(background: int | None) -> SegmentationOutcome:
    return SegmentationOutcome(COUNTS, np.array([0]), ("liver", "tool", "rest"), background)


def offered(background: int | None) -> dict[str, AnyMetric]:
    return metrics_of("segmentation", outcome(background))


@pytest.mark.parametrize(
    ("background", "mean"),
    [(2, (6 / 9 + 3 / 10) / 2), (0, (3 / 10 + 84 / 88) / 2), (None, (6 / 9 + 3 / 10 + 84 / 88) / 3)],
)
def test_the_declared_class_is_left_out_wherever_it_stands(background: int | None, mean: float) -> None:
    name = SEGMENTATION.shown_where(background)[0]
    assert offered(background)[name](outcome(background), None) == pytest.approx(mean)


def test_a_mask_of_nothing_but_background_leads_with_0() -> None:
    counts = np.array([[[90, 0], [10, 0]]])
    found = SegmentationOutcome(counts, np.array([0]), ("background", "tool"))
    assert offered(0)[SEGMENTATION.shown_where(0)[0]](found, None) == 0
    assert offered(0)["iou@dataset"](found, None) == pytest.approx(0.45)


def test_without_a_declared_background_no_metric_speaks_of_one() -> None:
    assert {*offered(0)} == {*SEGMENTATION_METRICS}
    assert next(iter(offered(0))) == "iou@dataset_no_background"
    without = {*offered(None)}
    assert without == {name for name in SEGMENTATION_METRICS if not name.endswith("_no_background")}
    assert next(iter(offered(None))) == "iou@dataset"
    assert {*surface_metrics(None)} == {"nsd@class_then_image", "nsd@empty_1"}
    assert {*SEGMENTATION.shown_where(None)} <= without


def test_surfaces_without_a_background_are_those_of_all_classes() -> None:
    found = SegmentationOutcome(COUNTS, np.array([0]), ("a", "b", "c"), None, np.array([[0.5, 0.25, np.nan]]))
    assert surface_metrics(None)["nsd@class_then_image"](found, None) == 0.375
    assert surface_metrics(None)["nsd@empty_1"](found, None) == pytest.approx(1.75 / 3)


def test_what_selects_epochs_stays_the_mean_over_all_classes() -> None:
    space = LabelSpace("segmentation", "mask", ("background", "tool"), background=0)
    assert SEGMENTATION.headline == "iou@dataset"
    assert SEGMENTATION.in_tables(space) == SEGMENTATION.shown_where(0)
    assert SEGMENTATION.in_tables(LabelSpace("segmentation", "mask", ("liver", "tool"))) == (
        SEGMENTATION.headline,
        *SEGMENTATION.shown,
    )
