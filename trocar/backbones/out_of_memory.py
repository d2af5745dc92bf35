"""Memory that a device or the system refuses: how it is told from other errors, and as a sentence for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from trocar.errors import TrocarError

# What is no torch.OutOfMemoryError: the CPU's allocator, and libraries and kernels that allocate for themselves.
_SAID = (
    "DefaultCPUAllocator: ",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


@contextmanager
def explained(remedy: Callable[[], str]) -> Iterator[None]:
    """Within, memory that is refused is a TrocarError: what was said, and `remedy()`, a sentence with the settings that
    the memory depends on and the values they have.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrocarError(f"out of memory ({said}). {remedy()}") from error
