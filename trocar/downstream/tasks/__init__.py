"""Tasks by name. A task is one file with a `TASK`: its headline and its other metrics."""

from __future__ import annotations

from functools import cache

from trocar.core.discover import modules
from trocar.downstream.tasks.base import Task
from trocar.errors import ConfigError, nearest

TOGETHER = "+"
"""Joins the names of tasks that are learned together."""


@cache
def tasks() -> dict[str, Task]:
    """Every task by name."""
    return {module.TASK.name: module.TASK for module in modules(__name__, __path__) if hasattr(module, "TASK")}


def get_task(name: str) -> Task:
    """The task of that name. Raises ConfigError with the nearest one."""
    known = tasks()
    if name not in known:
        raise ConfigError(f"no task {name!r}{nearest(name, known)}; tasks: {', '.join(known)}")
    return known[name]
