"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lane_places import LANE

TESTS = Path(__file__).parent


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making mlflow's tables takes a second; every test copies the result."""
    from trocar.runs.mlflow_server import quiet_mlflow

    quiet_mlflow()
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parallel test processes are given COLUMNS=80, by which tables would break their words."""
    monkeypatch.delenv("COLUMNS", raising=False)
