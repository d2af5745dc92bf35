"""Who a process is, so that a reused pid isn't taken for the process that had it before."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict


class ProcessRecord(TypedDict):
    """One process as plain values: host name, pid, the pid space it counts in, and its start time there."""

    host: str
    pid: int
    pid_space: str
    started: str | None


def host_name() -> str:
    """The name of this machine, as an error message shows it."""
    return socket.gethostname()


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
