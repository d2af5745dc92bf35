"""A plan for people: what is compared, what exists already, what is left and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from trocar.core.progress import duration
from trocar.leakage.guard import KEPT
from trocar.study.plan.costs import Rates, StageCost, costs, price
from trocar.study.plan.expand import StudyPlan
from trocar.study.stage_store import Store
from trocar.study.study_lock import StudyLock, served


def plan_tables(plan: StudyPlan, lock: StudyLock, store: Store) -> Iterator[Table | str]:
    """Tables and lines for the terminal."""
    yield _arms(plan)
    yield _tasks(plan, lock)
    yield _stages(plan, store)
    yield _costs(costs(lock, store))
    yield from price(plan, Rates(store, plan.study.speed))
    for title, cells in (("not in the study", plan.left_out), ("unavailable", plan.study.unavailable)):
        for name, why in cells.items():
            yield f"{title}: {name}: {why}"
    yield from _leaks(plan)
    yield f"contrasts: {', '.join(f'{a} - {b}' for a, b in plan.contrasts) or 'none'}"


def arm_rows(plan: StudyPlan) -> Iterator[tuple[str, ...]]:
    """Arm, seeds, cases, frames, steps, samples, epochs; ranges over seeds (epochs: and sources). An arm with
    pretrainings for some tasks alone has a row for each set of tasks.
    """
    for (arm, tasks), runs in served(plan.runs, len(plan.tasks)).items():
        columns = [
            [len(r.cases) for r in runs],
            *([getattr(r, c) for r in runs] for c in ("frames", "steps", "samples")),
        ]
        epochs = [round(epoch, 2) for run in runs for epoch in run.epochs.values()]
        yield (f"{arm} (for {tasks})" if tasks else arm, str(len(runs)), *map(_range, columns), _range(epochs))


def _arms(plan: StudyPlan) -> Table:
    table = Table(title=f"{plan.study.name}: arms, equal {plan.study.match}")
    for name in ("arm", "seeds", "cases", "frames", "steps", "samples", "epochs"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in arm_rows(plan):
        table.add_row(*row)
    for evaluation in {e.arm: e for e in plan.evaluations if e.kind != "pretrained"}.values():
        table.add_row(f"{evaluation.arm} (baseline)", str(evaluation.members))
    return table


def _tasks(plan: StudyPlan, lock: StudyLock) -> Table:
    table = Table("task", "data", "test", "protocols", "budgets (draws)", title="tasks")
    for name, task in lock.tasks.items():
        mine = [e for e in plan.evaluations if e.task == name]
        budgets = {e.budget: e.draws for e in mine}
        table.add_row(
            name,
            f"{task.root} ({task.layout})",
            f"{len(task.tested)} cases, {task.frames} frames, {task.scheme}",
            ", ".join(dict.fromkeys(e.protocol for e in mine)),
            ", ".join(f"{budget} ({draws})" for budget, draws in budgets.items()),
        )
    return table


def _stages(plan: StudyPlan, store: Store) -> Table:
    table = Table("stage", "what", "state", title="stages")
    for name, label in ((name, plan.labels[name]) for name in plan.stages):
        table.add_row(name, label, store.state(name))
    return table


def _leaks(plan: StudyPlan) -> Iterator[str]:
    """One line for each case of a pool that is a test or validation case of a task."""
    found = {(leak.pool, leak.test): leak for run in plan.runs for leak in run.leaks}
    of = " of the pretrainings that these tasks are scored with" if plan.study.leave_out == "task" else ""
    for (pool, _), leak in sorted(found.items()):
        what = leak.became if leak.became == KEPT else f"{leak.became} before sampling{of}"
        yield f"leak: {pool} is held out for {', '.join(leak.tasks)} ({leak.how}): {what}"


def _costs(found: list[StageCost]) -> Table | str:
    if not found:
        return "nothing is left to be computed"
    table = Table("left", "stages", "hours", "disk", "estimated from", title="what is left, one job at a time")
    for cost in found:
        hours = duration(cost.hours) if cost.hours is not None else "unknown"
        disk = f"{cost.bytes / 1e6:,.0f} MB" if cost.bytes is not None else "unknown"
        table.add_row(cost.kind, str(cost.stages), hours, disk, cost.basis)
    return table


def _range(values: list[Any]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
