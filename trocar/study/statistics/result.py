"""What every result of the statistics can do: be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Result:
    """Base of the frozen results."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values for `json.dumps(..., allow_nan=False)`: NaN and infinities become None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def plain(value: Any) -> Any:
    """`value` in dicts, lists, strings, numbers and None; keys become strings. Raises TypeError for anything else."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    raise TypeError(f"{type(value).__name__} has no plain form" + (" (not a Result)" if is_dataclass(value) else ""))
