"""Scores of a study -> arms as the statistics want them: which runs are seeds, and which are averaged.

What the arms of a study were pretrained on, as the statistics want it: amounts of sources, series of sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from trocar.downstream.protocols import get_protocol
from trocar.report.known_cases import FIELDS, KnownCases
from trocar.study.config import called_on
from trocar.study.results import Pretrained, Score, StudyResults
from trocar.study.statistics.resample import Arm
from trocar.study.statistics.scaling import Scale, one_mixture
from trocar.study.statistics.source_value import Design

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
    weights = results.lock.weights.get(source_of(results, score.arm) or "")
    return weights is not None and weights.kind == "random"


def source_of(results: StudyResults, arm: str) -> str | None:
    """The name that the weights of a baseline were loaded by; None for a pretrained arm."""
    named = results.study.baselines.backbones
    if arm in named:
        return named[arm]
    begun = {results.init_of[run.arm]: run.init for run in results.lock.runs}
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
        about = results.about(score)
        folds = about["detail"][about["runs"].index(score.key.run._asdict())]
        counts += [fold["labelled_cases"]["count"] for fold in folds]
    return round(_mean(counts))


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


FEWEST_SIZES = 3


def source_fields(results: StudyResults) -> tuple[str, ...]:
    """The fields that the compositions select by: what the study calls a source. By `source` where they use none."""
    used = {
        field
        for arm in results.study.all_arms().values()
        for match in (*arm.include, *arm.exclude)
        for field in FIELDS
        if getattr(match, field) is not None
    }
    return tuple(field for field in FIELDS if field in used) or ("source",)


def sources_of(run: Pretrained, known: KnownCases, fields: Sequence[str]) -> dict[str, int]:
    """Source -> cases of one pretraining; a case that no catalog knows counts by the source in its name."""
    found: dict[str, int] = {}
    for case in run.cases:
        about = known.about.get(case, {"source": case.partition("/")[0]})
        name = " ".join(about[field] for field in fields if about.get(field)) or "unnamed"
        found[name] = found.get(name, 0) + 1
    return found


def amounts(results: StudyResults, known: KnownCases, seeds: Sequence[Pretrained]) -> dict[str, float]:
    """Source -> cases, the mean over these seeds of an arm."""
    tables = [sources_of(run, known, source_fields(results)) for run in seeds]
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: sum(table.get(name, 0) for table in tables) / len(tables) for name in names}


def design_of(results: StudyResults, known: KnownCases, scored: Collection[str], task: str) -> Design | str:
    """The design of the arms that were scored on a task, or why sources can't be valued."""
    arms = {arm: amounts(results, known, runs) for arm, runs in _by_arm(results, task).items() if arm in scored}
    inits = {results.init_of[arm] for arm in arms}
    if not arms:
        return "not identifiable: no pretrained arm has been scored"
    if len(inits) > 1:
        return "not identifiable: the arms began from different weights"
    (init,) = inits
    if init not in scored:
        return f"not identifiable: {init}, which the arms began from, was not scored"
    return Design(arms, init)


def series(results: StudyResults, known: KnownCases, scored: Collection[str], task: str) -> list[list[Scale]]:
    """Arms of one mixture at three or more sizes, smallest first, as they were pretrained for a task."""
    scales = [
        Scale(arm, tuple(frozenset(run.cases) for run in runs), amounts(results, known, runs))
        for arm, runs in _by_arm(results, task).items()
        if arm in scored
    ]
    found: list[list[Scale]] = []
    for scale in sorted(scales, key=lambda scale: scale.size):
        home = next((one for one in found if one[-1].size < scale.size and one_mixture(one[-1], scale)), None)
        if home is None:
            found.append([scale])
        else:
            home.append(scale)
    return [one for one in found if len(one) >= FEWEST_SIZES]


def _by_arm(results: StudyResults, task: str) -> Mapping[str, list[Pretrained]]:
    found: dict[str, list[Pretrained]] = {}
    for run in results.pretrained:
        if task in run.tasks:
            found.setdefault(run.arm, []).append(run)
    return found
