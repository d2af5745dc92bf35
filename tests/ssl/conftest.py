"""One launch of two ranks for all tests that ask for some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_factory import launch


@pytest.fixture(scope="session")
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the selected test modules computed on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(list(dict.fromkeys(item.module for item in request.session.items if _needs_ranks(item))), folder)
    return folder


@pytest.fixture(scope="module")
def ranks(launched: Path, request: pytest.FixtureRequest) -> list[Any]:
    """What this module's `on_two_ranks` returned on each rank."""
    folder = launched / request.module.__name__
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes, all that use the launch go to one of them (`--dist loadgroup`)."""
    for item in filter(_needs_ranks, items):
        item.add_marker(pytest.mark.xdist_group("ranks"))


def _needs_ranks(item: Any) -> bool:
    return "launched" in getattr(item, "fixturenames", ())
