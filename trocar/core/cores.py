"""The processor cores that this process has."""

from __future__ import annotations

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")


def affinity() -> list[int]:
    """The numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(affinity())


def granted_cores() -> int:
    """Cores whose time this process gets: a container's quota and a SLURM job's share of its node bind no process."""
    limits = [usable_cores()]
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        limits.append(max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such limit ("max"), or none of this kind
        pass
    on_node = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if on_node.isdigit() and int(on_node) > 0:
        limits.append(int(on_node))
    return min(limits)
