"""What it costs that every task has pretrainings of its own, beside one for all tasks."""

from __future__ import annotations

from collections.abc import Iterator

from trocar.core.progress import duration
from trocar.study.plan.costs import Rates
from trocar.study.plan.expand import StudyPlan
from trocar.study.plan.pretrainings import Pretrainings
from trocar.study.run.stages import Stage


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
