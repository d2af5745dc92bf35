"""Masks in a study: what it compares them by follows from whether the data declare a background."""

from __future__ import annotations

from pathlib import Path

import pytest
from mask_factory import make_mask_folder

from trocar.errors import ConfigError
from trocar.study.config import StudyConfig
from trocar.study.planned_evaluations import TaskPlan


def task(root: Path, more: str, metric: str | None = None) -> TaskPlan:
    """The only task of a study, on masks whose first class is called ground."""
    study = {
        "name": "s",
        "store": root / "store",
        "catalog": root / "shards",
        "pretrain": {"recipe": "method/simclr", "steps": 1},
        "match": "steps",
        "arms": {"all": {}},
        "tasks": {
            "masks": {
                "data": make_mask_folder(root / "data", more=more),
                "task": "segmentation",
                "protocol": ["segmentation"],
                "metric": metric,
            }
        },
    }
    return TaskPlan(StudyConfig.model_validate(study), "masks")


@pytest.mark.parametrize(
    ("more", "metric"), [("background: ground\n", "iou@dataset_no_background"), ("", "iou@dataset")]
)
def test_masks_are_compared_without_the_declared_background(tmp_path: Path, more: str, metric: str) -> None:
    found = task(tmp_path, more)
    found.check()
    assert found.locked().metric == metric


def test_a_metric_without_background_needs_one_that_is_declared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.masks\.metric: .* declares none: name it in classes\.yaml, or take"):
        task(tmp_path / "a", "", "dice@dataset_no_background").check()
    task(tmp_path / "b", "background: ground\n", "dice@dataset_no_background").check()
