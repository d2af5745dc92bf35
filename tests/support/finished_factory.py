"""Evaluations of a few frames that are stopped and run again."""

from __future__ import annotations

from pathlib import Path

from trocar.downstream.evaluation.evaluate_config import EvaluateConfig

TUNED = {"name": "finetune", "epochs": 2, "batch": 8, "augment": None}
TABLES = ("predictions.parquet", "results.json", "results.md", "metrics.json")


def settings(root: Path, out: str, **changes: object) -> EvaluateConfig:
    given = {
        "backbone": ["random:test_resnet"],
        "data": root / "data",
        "task": ["phase", "phase+tools"],
        "protocol": ["linear", TUNED],
        "baselines": ["mean colour", "majority"],
        "seeds": 2,
        "size": 32,
        "folds": 2,
        "bootstrap": 20,
        "figures": False,
        "out": root / out,
    }
    return EvaluateConfig.model_validate(given | changes)


class StoppedError(Exception):
    """In place of a signal."""


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}
