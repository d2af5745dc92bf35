"""Scores of a study -> arms as the statistics want them: which runs are seeds, and which are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trocar.downstream.protocols import get_protocol
from trocar.study.config import called_on
from trocar.study.results.results import Score, StudyResults
from trocar.study.statistics.resample import Arm

Cell = tuple[str, str]
"""(task, protocol): what arms are compared in."""


def cells(results: StudyResults) -> dict[Cell, dict[str, list[Score]]]:
    """Cell -> budget -> its scores, in the order of the study; budgets by rising number of labelled cases."""
    found: dict[Cell, dict[str, list[Score]]] = {}
    for score in results.scores:
        found.setdefault((score.task, score.protocol), {}).setdefault(score.budget, []).append(score)
    order = list(results.study.tasks)
    return {
        cell: dict(sorted(found[cell].items(), key=lambda entry: _mean(s.labelled for s in entry[1])))
        for cell in sorted(found, key=lambda cell: order.index(cell[0]))
    }


def arms_of(results: StudyResults, scores: Sequence[Score]) -> list[Arm[Any]]:
    """One arm per name. Pretraining seeds, or draws of random weights, are seeds; their draws of labels and starts are
    averaged. Given weights have starts of the protocol for seeds, and are fixed where it has none.
    """
    by_arm: dict[str, list[Score]] = {}
    for score in scores:
        by_arm.setdefault(score.arm, []).append(score)
    return [_arm(results, name, of_arm) for name, of_arm in by_arm.items()]


def _arm(results: StudyResults, name: str, scores: Sequence[Score]) -> Arm[Any]:
    given = not is_drawn(results, scores[0])
    seeds: dict[int, list[Any]] = {}
    for score in scores:
        seeds.setdefault(score.start if given else score.seed, []).append(score.outcome)
    fixed = given and not starts_at_random(results, scores[0])
    return Arm(name, tuple(tuple(runs) for _, runs in sorted(seeds.items())), fixed)


def is_drawn(results: StudyResults, score: Score) -> bool:
    """Whether the weights are one of several that could have been: pretrained with a seed, or random."""
    if score.kind in ("pretrained", "random"):
        return True
    known: Mapping[str, Mapping[str, Any]] = results.lock["weights"]
    return str(known.get(source_of(results, score.arm) or "", {}).get("kind")) == "random"


def source_of(results: StudyResults, arm: str) -> str | None:
    """The name that the weights of a baseline were loaded by; None for a pretrained arm."""
    named = results.study.baselines.backbones
    if arm in named:
        return named[arm]
    begun = {results.init_of[run["arm"]]: str(run["init"]) for run in results.lock["runs"]}
    return begun.get(arm)


def starts_at_random(results: StudyResults, score: Score) -> bool:
    """Whether the protocol of a score has a random start."""
    task = results.study.tasks[score.task]
    protocols = [get_protocol(wanted) for wanted in task.protocol]
    return any(p.random_start for p in protocols if called_on(score.task, task, p) == score.protocol)


def labelled_cases(results: StudyResults, scores: Iterable[Score]) -> int:
    """Labelled cases that a budget took, those of validation included: the mean over folds and draws, rounded."""
    counts = []
    for score in scores:
        folds = results.about(score)["detail"][score.key.seed]
        counts += [fold["labelled_cases"]["count"] for fold in folds]
    return round(_mean(counts))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
