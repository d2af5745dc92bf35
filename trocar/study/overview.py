"""A study for somebody at a terminal: what its plan compares, what is left and costs how much, and how far it is.

Hours and disk are those of stages of the store that have run, else by stated speeds. Where every task has pretrainings
of its own, the plan says what that costs beside one for all tasks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from trocar.core.progress import duration
from trocar.leakage.guard import KEPT
from trocar.study.config import SpeedConfig
from trocar.study.planned_pretrainings import Pretrainings
from trocar.study.stages import LOG, Store
from trocar.study.study_lock import LockedStage, StudyLock, served
from trocar.study.study_plan import StudyPlan


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


@dataclass(frozen=True)
class StageCost:
    """Of the stages of one kind that are not done: their number, hours (wall clock of each, added) and bytes that they
    leave. None where nothing is known; `basis` says where the numbers are from.
    """

    kind: str
    stages: int
    hours: float | None
    bytes: float | None
    basis: str


class Rates:
    """Seconds and bytes per unit of work of all finished stages: of alike ones, else of their kind."""

    def __init__(self, store: Store, speed: SpeedConfig) -> None:
        self.speed = speed
        self._seen: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
        for done in store.all_done():
            for like in (done.like, "any"):
                totals = self._seen[done.kind, like]
                for i, value in enumerate((done.seconds, done.work, done.bytes, 1.0)):
                    totals[i] += value

    def seconds(self, kind: str, like: str, work: float) -> tuple[float | None, str]:
        """How long, and why so."""
        for name, basis in ((like, "measured"), ("any", "measured on other stages")):
            if name == "any" and (stated := self._stated(kind, work)) is not None:
                return stated, "stated"
            seconds, seen, _, _ = self._seen.get((kind, name), (0.0, 0.0, 0.0, 0.0))
            if seen:
                return seconds / seen * work, basis
        return None, "unknown"

    def bytes(self, kind: str, like: str, work: float) -> float | None:
        """How much a stage leaves on disk: evaluations by their work, the others each."""
        for name in (like, "any"):
            _, seen, size, count = self._seen.get((kind, name), (0.0, 0.0, 0.0, 0.0))
            if count:
                return size / seen * work if kind == "evaluate" else size / count
        return None

    def _stated(self, kind: str, work: float) -> float | None:
        if kind == "pretrain" and self.speed.images_per_s is not None:
            return work / self.speed.images_per_s
        if kind == "evaluate" and self.speed.evaluate_min is not None:
            return 60 * self.speed.evaluate_min
        return None


def costs(lock: StudyLock, store: Store) -> list[StageCost]:
    """One line per kind of stage that has any left."""
    rates = Rates(store, lock.study.speed)
    found = []
    for kind in ("pretrain", "evaluate", "report"):
        left = [stage for name, stage in lock.stages.items() if stage.kind == kind and not store.is_done(name)]
        if left:
            found.append(_cost(kind, left, rates))
    return found


def _cost(kind: str, left: Sequence[LockedStage], rates: Rates) -> StageCost:
    times = [rates.seconds(kind, stage.like, stage.work) for stage in left]
    sizes = [rates.bytes(kind, stage.like, stage.work) for stage in left]
    known = [seconds for seconds, _ in times if seconds is not None]
    disk = [size for size in sizes if size is not None]
    return StageCost(
        kind,
        len(left),
        sum(known) / 3600 if len(known) == len(left) else None,
        sum(disk) if len(disk) == len(left) else None,
        ", ".join(sorted({basis for _, basis in times})),
    )


def price(plan: StudyPlan, rates: Rates) -> Iterator[str]:
    """Lines for the terminal; none where one pretraining serves all tasks."""
    shared = plan.shared
    if shared is None:
        return
    own = Pretrainings(tuple(run for run in plan.runs if run.arm not in shared.short), plan.trained, {})
    (many, many_steps, many_hours), (few, few_steps, few_hours) = _sums(own, rates), _sums(shared, rates)
    hours = "hours unknown: no pretraining like these has run, and no speed is stated"
    if many_hours is not None and few_hours is not None:
        hours = f"{duration(many_hours - few_hours)} more on one GPU or machine"
    if few:
        yield (
            f"leave_out: task: {many} pretrainings, where one for all tasks would be {few}: {many - few} more, "
            f"{many_steps - few_steps:,} steps more, {hours}"
        )
    for arm, why in shared.short.items():
        if any(run.arm == arm for run in plan.runs):
            yield f"leave_out: task: {arm} has no price, because for all tasks it can't be: {why}"


def _sums(runs: Pretrainings, rates: Rates) -> tuple[int, int, float | None]:
    """Pretrainings, their steps, and hours (None: unknown), those that are equal once."""
    steps = {run.stage: run.steps for run in runs.runs}
    stages = [runs.stages[name] for name in steps]
    seconds = [rates.seconds(stage.kind, stage.like, stage.work)[0] for stage in stages]
    known = [one for one in seconds if one is not None]
    return len(steps), sum(steps.values()), sum(known) / 3600 if len(known) == len(seconds) else None


STATES = ("done", "running", "waiting", "stopped", "failed", "blocked")


@dataclass(frozen=True)
class Failing:
    """A stage that failed: the exit code and the last lines of its log."""

    name: str
    label: str
    code: int
    log: str
    lines: list[str]


@dataclass(frozen=True)
class Status:
    """`states` of all stages by name (see STATES; blocked: waits for one that failed), `hours` of work that is left
    (None: unknown), `left` the same in words.
    """

    states: Mapping[str, str]
    failing: list[Failing]
    hours: float | None
    left: str
    kinds: Mapping[str, Counter[str]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        for kind, counts in self.kinds.items():
            parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
            yield f"{kind:9s} {sum(counts.values()):4d} stages: {', '.join(parts)}"
        for one in self.failing:
            yield f"FAILED {one.name} ({one.label}), exit code {one.code}, log {one.log}:"
            yield from (f"    {line}" for line in one.lines)
        yield f"left: {self.left}"


def status_of(lock: StudyLock, store: Store) -> Status:
    """Look at all stages of a lock."""
    states: dict[str, str] = {}
    for name, stage in lock.stages.items():
        state = store.state(name)
        behind = any(states[parent] in ("failed", "blocked") for parent in stage.parents)
        states[name] = "blocked" if behind and state in ("waiting", "stopped") else state
    kinds: dict[str, Counter[str]] = {}
    for name, state in states.items():
        kinds.setdefault(lock.stages[name].kind, Counter())[state] += 1
    failing = [_failing(lock, store, name) for name, state in states.items() if state == "failed"]
    hours, left = _left(lock, store)
    return Status(states, failing, hours, left, kinds)


def _failing(lock: StudyLock, store: Store, name: str) -> Failing:
    failure = store.failure(name)
    code = failure.code if failure is not None else 1  # another run has begun it again meanwhile
    return Failing(name, lock.stages[name].label, code, str(store.folder(name) / LOG), store.log_tail(name))


def _left(lock: StudyLock, store: Store) -> tuple[float | None, str]:
    found = [cost for cost in costs(lock, store) if cost.kind != "report"]
    if not found:
        return 0.0, "nothing but the report" if not store.is_done(lock.report) else "nothing"
    if any(cost.hours is None for cost in found):
        return None, "unknown: no stage like those that are left has run, and no speed is stated"
    hours = sum(cost.hours or 0.0 for cost in found)
    return hours, f"{duration(hours)} of one job at a time, {sum(cost.stages for cost in found)} stages"
