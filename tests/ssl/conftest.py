"""One launch of two ranks for all tests that ask for some."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from data_factory import make_catalog
from filelock import FileLock
from ranks_factory import launch
from tiny_methods import FRAMES, make_models


@pytest.fixture(scope="session")
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the selected test modules computed on two ranks."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all test processes: the first one launches, the others wait for it
    folder = root / "ranks"
    with FileLock(root / "ranks.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            launch(list(dict.fromkeys(item.module for item in request.session.items if _needs_ranks(item))), folder)
            (folder / "complete").touch()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small catalog, and the backbones that tiny configurations begin with."""
    folder = tmp_path_factory.mktemp("data")
    make_catalog(folder, 4, FRAMES // 4)
    make_models(folder)
    return folder


@pytest.fixture(scope="module")
def ranks(launched: Path, request: pytest.FixtureRequest) -> list[Any]:
    """What this module's `on_two_ranks` returned on each rank."""
    folder = launched / request.module.__name__
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _needs_ranks(item: Any) -> bool:
    return "launched" in getattr(item, "fixturenames", ())
