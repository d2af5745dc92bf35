"""Tasks by name. A task is one file with a `TASK`: its headline and its other metrics."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from trocar.downstream.tasks.base import Task
from trocar.errors import ConfigError, nearest


@cache
def tasks() -> dict[str, Task]:
    """Every task by name."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {module.TASK.name: module.TASK for module in modules if hasattr(module, "TASK")}


def get_task(name: str) -> Task:
    """The task of that name. Raises ConfigError with the nearest one."""
    known = tasks()
    if name not in known:
        raise ConfigError(f"no task {name!r}{nearest(name, known)}; tasks: {', '.join(known)}")
    return known[name]
