"""Running statistics of normalisation layers, and what they were before a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Statistics:
    """Buffers that a forward pass changes in place, with room for their values before it.

    Copied in one go for each dtype: a network has hundreds, each of which would be a kernel of its own on a GPU.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        self.buffers = list(buffers)
        kinds = dict.fromkeys(buffer.dtype for buffer in self.buffers)
        self._now = [[buffer for buffer in self.buffers if buffer.dtype == kind] for kind in kinds]
        self._before = [[torch.empty_like(buffer) for buffer in group] for group in self._now]

    @torch.no_grad()
    def note(self) -> None:
        """Remember the values of now."""
        for before, now in zip(self._before, self._now, strict=True):
            torch._foreach_copy_(before, now)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Take the values that were noted."""
        for before, now in zip(self._before, self._now, strict=True):
            torch._foreach_copy_(now, before)
