"""What the arms of a study were pretrained on, as the statistics want it: amounts of sources, series of sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from trocar.study.report.known_cases import FIELDS, KnownCases
from trocar.study.results.results import Pretrained, StudyResults
from trocar.study.statistics.scaling import Scale, one_mixture
from trocar.study.statistics.source_value import Design

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
