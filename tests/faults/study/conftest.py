"""What the faults of studies share: a small study of real trainings, and what comes of it undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from study_factory import make_study
from study_process import run_study

from trocar.study.stages import Store


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of labelled frames don't go to the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of three steps each, scored by nearest neighbours."""
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def undisturbed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of a run that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_study(study, root / "store", root / "said.txt") == 0, (root / "said.txt").read_text()
    return Store(root / "store")
