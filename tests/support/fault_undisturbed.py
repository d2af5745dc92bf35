"""The runs that nothing disturbs, which every other one has to end as."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_factory import make_catalog
from fault_trainer import STEPS, finish, fork_ranks, write_config

EVERY_STEP = {"workers": 1, "checkpoint_every": 1, "keep_last": STEPS}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of 120 frames."""
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 30, sources=("a", "b"))
    return folder


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with all its checkpoints."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(write_config(shards, out, run=EVERY_STEP))
    return out


@pytest.fixture(scope="session")
def undisturbed_on_two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two ranks."""
    out = tmp_path_factory.mktemp("undisturbed-on-two") / "run"
    finish(write_config(shards, out, run={**EVERY_STEP, "ranks": 2}), fault=fork_ranks)
    return out
