"""A dense task from outside is one object: training, masks on disk, tables, figures and metrics.json follow from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mask_factory import CLASSES, make_mask_folder
from registry_factory import changeable

from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.metrics.outcome import Named
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS, per_class
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import METRICS, TASKS, AddedMetric, SegmentationTask
from trocar.jobs.evaluate import evaluate


@pytest.fixture(autouse=True)
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task `squares` with a metric of its own and one that was added."""
    for registry in (TASKS, METRICS):
        changeable(registry, monkeypatch)
    own = {name: Named(SEGMENTATION_METRICS[name]) for name in ("dice@dataset", "iou@dataset")}
    TASKS.register(SegmentationTask("squares", "mask", "dice@dataset", ("iou@dataset",), ("iou", per_class), own))
    METRICS.register(AddedMetric("squares", "images@all", Named(lambda outcome, weights: float(len(outcome.case)))))


def test_a_dense_task_from_outside_is_trained_and_scored_by_its_own_metrics(tmp_path: Path) -> None:
    make_mask_folder(tmp_path / "data", task="squares")
    tree = {
        "backbone": ["random:test_resnet"],
        "data": tmp_path / "data",
        "task": ["squares"],
        "protocol": [{"name": "segmentation", "epochs": 1, "batch": 4, "decoder": "linear"}],
        "baselines": ["majority"],
        "seeds": 1,
        "size": 32,
        "bootstrap": 0,
        "out": tmp_path / "out",
    }
    evaluate(EvaluateConfig.model_validate(tree))
    shown = {row["backbone"]: row for row in json.loads((tmp_path / "out/results.json").read_text())["rows"]}
    assert shown.keys() == {"random:test_resnet", "majority"}
    assert list(shown["majority"]["metrics"]) == list(get_task("squares").metrics) == ["dice@dataset", "iou@dataset"]
    assert list(shown["majority"]["per_class"]) == list(CLASSES)
    for row in json.loads((tmp_path / "out/metrics.json").read_text())["rows"]:
        assert row["metrics"].keys() == {"dice@dataset", "iou@dataset", "images@all"}
        assert row["metrics"]["images@all"]["value"] == 9  # frames with a mask
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 9 * 3  # of both, and the labels
    assert [path.name.partition("-")[0] for path in (tmp_path / "out/figures").glob("*-overlays.png")] == ["squares"]
