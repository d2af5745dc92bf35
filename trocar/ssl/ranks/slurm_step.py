"""Which of `srun`'s tasks this process is, and which processes of a SLURM job are none though they see its variables.

A step's variables reach everything that its tasks start. A command typed into a shell of `srun --pty` or `salloc`, or
called by a job's script without `srun`, would wait for ranks that never come if it took itself for one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SPECIAL = 0xFFFFFFF0
"""Ids from here on are steps that SLURM itself makes: ...fa the shell of `salloc`, ...fb a job's script, ...fc what
comes in by ssh. Whatever number of tasks the job has, these are one process."""


@dataclass(frozen=True)
class SrunTask:
    """Task `rank` of `size`, `local_rank` on its node. `step` is a name that no other step, and no other life of this
    one after a requeue, has."""

    rank: int
    size: int
    local_rank: int
    step: str


def of(environ: Mapping[str, str], is_typed: Callable[[int], bool] | None = None) -> SrunTask | None:
    """The task that `srun` started this process, or what started it, as; None where it is no step of several tasks.

    `is_typed` is told SLURM_TASK_PID, the step's own process here, and says whether that is a shell with a terminal.
    """
    number = environ.get("SLURM_STEP_ID", "")
    # SLURM_NTASKS alone is the job's in a script, and what `srun` sets it to depends on its version.
    size = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or "1"
    if not number.isdigit() or int(number) >= SPECIAL or int(size) < 2 or "SLURM_PROCID" not in environ:
        return None
    task = environ.get("SLURM_TASK_PID", "")
    if (is_typed or _is_typed)(int(task) if task.isdigit() else os.getpid()):
        return None
    life = environ.get("SLURM_RESTART_COUNT") or "0"
    rank = int(environ["SLURM_PROCID"])
    local_rank = int(environ.get("SLURM_LOCALID") or rank)
    return SrunTask(rank, int(size), local_rank, f"step-{environ.get('SLURM_JOB_ID', '')}.{number}-{life}")


def _is_typed(task: int) -> bool:
    """Whether the step's process is a shell with a terminal, and we are a command in it.

    SLURM_PTY_PORT doesn't tell: an `srun` that is typed into such a shell hands it on to its own tasks, which have no
    terminal.
    """
    return task != os.getpid() and (_has_terminal(task) if Path(f"/proc/{task}").exists() else _has_terminal("self"))


def _has_terminal(pid: int | str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[4] != "0"  # the controlling terminal; the command's name before may hold blanks
