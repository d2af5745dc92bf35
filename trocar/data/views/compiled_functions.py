"""Functions of tensors that are compiled where torch's compiler works, and run as they are where it doesn't."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Run = Callable[..., Tensor]
"""Called as run(function, *arguments): gives function(*arguments), in whatever way."""


def as_it_is(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Run it operation by operation."""
    return function(*arguments)


class Compiler:
    """Compiles a function at its first call, and once more for each further set of shapes and numbers it is given.

    No shape is made dynamic, and the function has to be one graph. Where that fails, such as on a machine without
    Triton or a C compiler, one warning says why, and this function and all others run as they are from then on: slower,
    with the same results but for rounding. Out of memory is no such failure and is raised.

    A constant made inside a graph for a GPU would be copied there at each call, and the host wait for it: hand it in.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self.backend = backend
        self.works = True
        self._compiled: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}

    def __call__(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`function(*arguments)`, which must not change its arguments: it may be called twice."""
        if not self.works:
            return function(*arguments)
        if function not in self._compiled:
            self._compiled[function] = torch.compile(function, fullgraph=True, dynamic=False, backend=self.backend)
        try:
            return self._compiled[function](*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The compiler's own errors have no common class. What isn't one comes again here.
            found = function(*arguments)
            self.works = False
            why = " ".join(str(error).split("\n")[:2]) or type(error).__name__  # which backend, and what it says
            log.warning("views are made without torch.compile, which needs Triton and a C compiler (%s)", why)
            return found
