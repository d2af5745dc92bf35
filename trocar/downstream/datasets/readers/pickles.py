"""Label lists that are published as pickle files. Reading one runs no code: only plain values come through."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from trocar.errors import TrocarError


def _number(kind: np.dtype[Any], data: bytes) -> Any:
    if kind.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds a numpy value of type {kind}")
    return np.frombuffer(data, kind, count=1)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how old protocols write bytes


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
"""numpy's numbers, which published label lists may hold beside Python's own."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_frame_lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Video name -> records of its frames, from a file of SelfSupSurg or MultiBypass140.

    Raises TrocarError for a file that would run code, is damaged, or holds something else.
    """
    try:
        tree = _Plain(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise TrocarError(
            f"{path}: refused: {error}; a list of frames holds text and numbers only. Download it again"
        ) from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, MemoryError) as error:
        raise TrocarError(f"{path}: not a pickle file, or a damaged one ({error}); download it again") from None
    if not isinstance(tree, dict) or not all(isinstance(records, list) for records in tree.values()):
        raise TrocarError(f"{path}: expected a dictionary of one list of frames per video")
    return {str(video): records for video, records in tree.items()}
