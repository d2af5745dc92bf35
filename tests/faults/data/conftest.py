"""What the faults of data share: clips to ingest, and what comes of them undisturbed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ingest_clips import constant, make_clip
from ingest_process import tree, whole

CLIPS = 8


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough videos for any machine to be caught in the middle."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "v00.mp4", constant(25, 200), scale=2)
    for i in range(1, CLIPS):
        shutil.copy(folder / "v00.mp4", folder / f"v{i:02d}.mp4")
    return folder


@pytest.fixture(scope="session")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an ingest that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed")
    whole(clips, out)
    return tree(out)
