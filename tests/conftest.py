"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LANE = (
    "core",
    "backbones/test_backbone_export.py",
    "backbones/test_backbone_load.py",
    "backbones/test_published.py",
    "data/ingest/test_ingest_run.py",
    "data/media",
    "data/test_dali_backend.py",
    "data/test_loader.py",
    "downstream/metrics",
    "downstream/segmentation",
    "downstream/test_evaluate.py",
    "downstream/test_predictions.py",
    "e2e/test_demo.py",
    "ssl/methods",
    "ssl/test_trainer.py",
    "study/statistics",
    "test_cli.py",
    "tracking/test_mlflow_sync.py",
)
"""Where the code of other packages is called: what is run with the lowest and the newest versions of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lane = [TESTS / name for name in LANE]
    for item in items:
        if any(item.path == place or place in item.path.parents for place in lane):
            item.add_marker(pytest.mark.lane)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real surgical frames and clips; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("TROCAR_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TROCAR_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parallel test processes are given COLUMNS=80, by which tables would break their words."""
    monkeypatch.delenv("COLUMNS", raising=False)
