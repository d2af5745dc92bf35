"""Clips that several files ingest."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingest_clips import constant, make_clip


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good clips: 3 s, 4 s and 2 s at 25 fps; the frame numbers begin at 0, 500 and 1000."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seconds, first in (("case1_1", 3, 0), ("case1_2", 4, 500), ("case2", 2, 1000)):
        numbers = [first + i for i in range(25 * seconds)]
        make_clip(folder / f"{name}.mp4", constant(25, 25 * seconds), numbers=numbers)
    return folder
