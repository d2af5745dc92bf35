"""Small study locks that no plan has made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STUDY = {
    "name": "small",
    "store": "store",
    "catalog": "shards",
    "arms": {"north": {}},
    "pretrain": {"recipe": "method/simclr", "steps": 3},
    "match": "steps",
    "tasks": {"phase": {"data": "labels"}},
}


def arm_run(**changes: Any) -> Any:
    """One pretraining of the arm north."""
    from trocar.study.study_lock import ArmRun

    run: dict[str, Any] = {"arm": "north", "seed": 0, "tasks": ("phase",), "stage": "pretrain-0", "asked": "a" * 16}
    run |= {"selection": "b" * 16, "cases": ("phantom/case00",), "frames": 6, "steps": 3, "samples": 12}
    run |= {"epochs": {"phantom": 1.0}, "notes": (), "leaks": (), "init": "random:test_resnet", "size": 32}
    return ArmRun(**{**run, "precision": "float32", **changes})


def study_lock(
    stages: Mapping[str, Any] | None = None, *, study: Mapping[str, Any] | None = None, **changes: Any
) -> Any:
    """A lock of these stages (name -> `Stage`, labelled by what its configuration says), the last one the report."""
    from trocar.study.config import StudyConfig
    from trocar.study.study_lock import FORMAT, LockedStage, StudyLock

    stages = stages or {}
    listed = {
        name: LockedStage(
            kind=stage.kind, parents=stage.parents, label=stage.config["what"], like=stage.like, work=stage.work
        )
        for name, stage in stages.items()
    }
    lock: dict[str, Any] = {"format": FORMAT, "trocar": "0", "versions": {"pretrain": 1}, "plugins": {}}
    lock |= {"catalog": "c" * 16, "weights": {}, "runs": (), "init_of": {}, "tasks": {}, "evaluations": ()}
    lock |= {"study": StudyConfig.model_validate({**STUDY, **(study or {})}), "contrasts": (), "left_out": {}}
    return StudyLock(**{**lock, "stages": listed, "report": next(reversed(listed), "report-0"), **changes})
