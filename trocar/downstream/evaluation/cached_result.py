"""What is kept of solved work: named arrays and JSON values, in one file with a checksum of every part."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.core.files import writing

WORDS = "words"


@dataclass(frozen=True)
class Solution:
    """Arrays by name (any but `words`), and JSON values."""

    arrays: Mapping[str, npt.NDArray[Any]]
    words: Any


def read_solution(path: Path) -> Solution | None:
    """None where there is none, or one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            # numpy reads no further than an array's header says, so a damaged header would leave the sum unchecked
            if archive.testzip() is not None:
                return None
        with np.load(path, allow_pickle=False) as parts:
            arrays = {name: parts[name] for name in parts.files}
            return Solution(arrays, json.loads(arrays.pop(WORDS).tobytes()))
    except Exception:  # what a damaged archive raises is endless, and computing it again is right for all of it
        return None


def write_solution(path: Path, solution: Solution) -> None:
    """The whole file or none; its folder is made. Raises OSError."""
    words = np.frombuffer(json.dumps(solution.words).encode(), dtype=np.uint8)
    parts: dict[str, Any] = {**solution.arrays, WORDS: words}
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as file:
        np.savez(file, **parts)
