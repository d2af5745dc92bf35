"""A disk that is full soon, and has room again when somebody makes some."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
SAYS = "no space left|No space left|File too large"
"""What the system says, of a full disk or of a file beyond the limit."""


@dataclass
class SmallDisk:
    """`folder` takes `size` bytes (a multiple of PAGE, each file rounded up to it) until `enlarge`.

    Where nothing may be mounted it is any folder, and `before`, called in a process that is to suffer, limits each of
    its files to `limit` bytes instead.
    """

    folder: Path
    mounted: bool
    limit: int

    @property
    def before(self) -> Callable[[], None] | None:
        """What a child process calls before it begins."""
        if self.mounted or not self.limit:
            return None
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))

    def enlarge(self) -> None:
        """Room for all that is to come."""
        self.limit = 0
        self.resize(64 << 20)

    def resize(self, size: int) -> None:
        """Let a mounted disk take `size` bytes, no less than it holds."""
        if self.mounted:
            words = ["mount", "-o", f"remount,size={size}", str(self.folder)]
            subprocess.run(words, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: int, limit: int) -> Iterator[SmallDisk]:
    """Make `folder` a disk of `size` bytes, unmounted at the end."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(words, check=False, capture_output=True).returncode == 0
    try:
        yield SmallDisk(folder, mounted, limit)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def pages(files: dict[str, bytes]) -> int:
    """Bytes that files take on such a disk."""
    return sum(-(-len(content) // PAGE) * PAGE for content in files.values())
