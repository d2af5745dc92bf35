"""How far a study is: counts, stages that failed with the end of their log, time left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trocar.core.progress import duration
from trocar.study.plan.costs import costs
from trocar.study.stage_store import LOG, Store
from trocar.study.study_lock import StudyLock

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
