"""What a study still costs: hours and disk, from stages of the store that have run, else from stated speeds.

What it costs that every task has pretrainings of its own, beside one for all tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trocar.core.progress import duration
from trocar.study.config import SpeedConfig
from trocar.study.plan.expand import StudyPlan
from trocar.study.plan.pretrainings import Pretrainings
from trocar.study.stage_store import Store
from trocar.study.stages import Stage
from trocar.study.study_lock import LockedStage, StudyLock


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
    seconds = [_seconds(runs.stages[name], rates) for name in steps]
    known = [one for one in seconds if one is not None]
    return len(steps), sum(steps.values()), sum(known) / 3600 if len(known) == len(seconds) else None


def _seconds(stage: Stage, rates: Rates) -> float | None:
    return rates.seconds(stage.kind, stage.like, stage.work)[0]
