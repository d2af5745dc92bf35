"""Keep the memory of one training step for the next.

A step frees all its activations; glibc then gives gigabytes back to the system, which hands them out again page by page
and cleared. Kept, they are reused as they are: a fifth of a CPU step (`trocar bench trainer`), at the same peak.
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from its malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed() -> bool:
    """Tell this process's malloc to hold on to what is freed. False where it is not glibc's."""
    # No limit beyond which the top of the heap is given back, and no block that is mapped and unmapped on its own.
    return _mallopt(_TRIM_THRESHOLD, -1) and _mallopt(_MMAP_MAX, 0)


def _mallopt(parameter: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except AttributeError:
        return False
