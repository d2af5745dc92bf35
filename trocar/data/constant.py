"""Small constants on a device, copied there once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """`values` (floats, or tuples of them) as float32 on `device`. Not to be written to.

    A copy from ordinary host memory makes the host wait for the whole stream: once is enough. In a compiled graph it is
    a constant of the graph.
    """
    return _made(values, device) if torch.compiler.is_compiling() else _kept(values, device)


def _made(values: tuple[Any, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


_kept = lru_cache(maxsize=64)(_made)
