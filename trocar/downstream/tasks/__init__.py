"""The tasks. A file registers one or several with `TASKS`: labels, headline and metrics of a task are in its file."""

from __future__ import annotations

from trocar.downstream.tasks.base import TASKS, Task

TOGETHER = "+"
"""Joins the names of tasks that are learned together."""


def get_task(name: str) -> Task:
    """The task of that name. Raises ConfigError with the nearest one."""
    return TASKS.get(name)


def frame_tasks() -> list[str]:
    """Names of the tasks whose labels are of whole frames, not of pixels."""
    return [name for name, task in TASKS.items() if not task.masks]
