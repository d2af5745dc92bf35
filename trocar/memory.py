"""Memory of a training step on a CPU: kept for the next step, and in large pages.

A step frees all its activations; glibc then gives gigabytes back to the system, which hands them out again page by page
and cleared. Kept, they are reused as they are, at the same peak. And with pages of 2 MiB instead of 4 KiB there is less
to look up at every access. `trocar bench trainer` shows what both are worth.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Parameters of mallopt, from its malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Let malloc ask for transparent huge pages (glibc 2.35 or newer; older ones ignore it)."""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_on_huge_pages(setting: Path = SETTING) -> None:
    """Start this program again, as the same process, with huge pages for malloc; returns where that is of no use.

    glibc reads its tunables before the program begins, so there is no later moment. Of no use: already started so, not
    Linux, or a system that gives huge pages to all or to none.
    """
    if sys.platform != "linux" or HUGE_PAGES.partition("=")[0] in os.environ.get(TUNABLES, ""):
        return
    try:
        asked_only = "[madvise]" in setting.read_text(encoding="ascii")
    except OSError:
        return
    if asked_only:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], with_huge_pages(os.environ))


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process on huge pages; tunables that are set already stay."""
    return {**environment, TUNABLES: ":".join(filter(None, (environment.get(TUNABLES), HUGE_PAGES)))}


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
