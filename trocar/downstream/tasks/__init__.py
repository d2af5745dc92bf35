"""Tasks by name. A task is one file: which rows it can use, their targets, its headline and its other
metrics.
"""

from __future__ import annotations

from trocar.downstream.tasks.base import Task
from trocar.downstream.tasks.phase import PHASE
from trocar.downstream.tasks.tools import TOOLS
from trocar.errors import ConfigError, nearest

TASKS: dict[str, Task] = {task.name: task for task in (PHASE, TOOLS)}


def get_task(name: str) -> Task:
    """The task of that name. Raises ConfigError with the nearest one."""
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}{nearest(name, TASKS)}; tasks: {', '.join(TASKS)}")
    return TASKS[name]
