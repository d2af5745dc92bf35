"""Processor cores and memory that this process has, how a training on a CPU keeps its memory, and who a process is.

A step frees all its activations; glibc then gives gigabytes back to the system, which hands them out again page by page
and cleared. Kept, they are reused as they are, at the same peak. And with pages of 2 MiB instead of 4 KiB there is less
to look up at every access. `trocar bench trainer` shows what both are worth.

A process is told by more than its pid, so that a reused one isn't taken for the process that had it before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

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
    import ctypes  # here, because every call of `trocar` imports this file

    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except AttributeError:
        return False


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process can still take without swapping: of the machine, and of its job or container if less.

    Both count what the system keeps of files and would give up. None where neither is known (not Linux).
    """
    found = [*_of_machine(proc), *_of_groups(proc, groups)]
    return max(0, min(found)) if found else None


def _of_machine(proc: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                yield int(rest.split()[0]) << 10


def _of_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each control group around this process leaves, of either version; a limit may stand on any level."""
    lines: list[str] = []
    with suppress(OSError):
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds == "":
            top, files = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            top, files = groups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the names may be those outside of it, while what is mounted begins at its own group.
        inside = Path(name.lstrip("/"))
        for level in (inside, *inside.parents):
            with suppress(OSError, ValueError):
                yield _left(top / level, *files)


def _left(group: Path, limit: str, used: str, files: str) -> int:
    """Raises ValueError for a group without a limit ("max")."""
    most, now = int((group / limit).read_text()), int((group / used).read_text())
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return most - now + int(stat.get(files, 0))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """`count` threads of torch inside, as many as before after it: the process may be somebody's notebook."""
    import torch  # not at the top: what only asks for cores or memory loads no torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ProcessRecord(TypedDict):
    """One process as plain values: host name, pid, the pid space it counts in, and its start time there."""

    host: str
    pid: int
    pid_space: str
    started: str | None


def host_name() -> str:
    """The name of this machine, as an error message shows it."""
    return os.uname().nodename


def pid_space() -> str:
    """Names the set of pids this process can see: kernel boot and pid namespace (containers have their own).

    A pid from another pid space says nothing here, even when the host names are equal. Empty where the system
    tells neither (then the host name alone has to do).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """When process `pid` started (opaque; equal means the same process), or None if none runs under that
    number.

    A zombie (killed, not yet reaped by its parent) counts as not running.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_time_elsewhere(pid)
    except OSError:
        return _start_time_elsewhere(pid)
    # The command name, in parentheses, may itself hold spaces and parentheses: count from the last one.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def is_running(pid: int, started: str | None) -> bool:
    """Whether the process that had `pid` and start time `started` still runs; visible pids only."""
    now = start_time(pid)
    return now is not None and (started is None or now == started)


def _start_time_elsewhere(pid: int) -> str | None:
    """Systems without /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return ""


def lower_priority() -> None:
    """Give way to everything else on this machine."""
    os.nice(19)


def this_process() -> ProcessRecord:
    """What `is_gone` needs to judge the calling process later, as plain values for a JSON file."""
    pid = os.getpid()
    return {"host": host_name(), "pid": pid, "pid_space": pid_space(), "started": start_time(pid)}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process described by `this_process` is known to run no more: of another host nothing is
    known.
    """
    if (process.get("host"), process.get("pid_space")) != (host_name(), pid_space()):
        return False
    return not is_running(int(process["pid"]), process.get("started"))
