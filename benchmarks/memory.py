"""Memory of this process that counts against a machine."""

from pathlib import Path


def anonymous_kib() -> int:
    """KiB that no file backs: mapped pages of a catalog belong to the page cache and don't count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0
