"""From the host to a device without making the host wait: small constants, once; parameters, by page-locked memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


@lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """`values` (floats, or tuples of them) as float32 on `device`. Not to be written to.

    A copy from ordinary host memory makes the host wait for the whole stream: once is enough. Not for use inside a
    compiled graph, which would copy at each call; there a constant has to be an argument.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)


def sent(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The values of an array on `device`; on a GPU the copy waits in the current stream, and the host doesn't."""
    found = torch.as_tensor(values)
    if device.type == "cuda":
        # The allocator of page-locked memory keeps it until the copy is done.
        found = found.pin_memory()
    return found.to(device, non_blocking=True)
