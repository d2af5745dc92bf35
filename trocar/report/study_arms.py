"""The arms of a study, as the statistics want them: which runs are seeds and which are averaged, amounts, sizes.

And for the page: how they were trained and on what, which cases were kept out of their pools, what everything ran on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trocar.core.progress import duration
from trocar.downstream.protocols import get_protocol
from trocar.leakage.guard import KEPT
from trocar.leakage.verdict import fold
from trocar.privacy.redaction import tree_without_folders
from trocar.report.shown_frames import FIELDS, KnownCases
from trocar.study.config import called_on
from trocar.study.results import Pretrained, Score, StudyResults
from trocar.study.stages import FinishedStage
from trocar.study.statistics.resample import Arm
from trocar.study.statistics.scaling import Scale, one_mixture
from trocar.study.statistics.source_value import Design
from trocar.study.study_lock import served

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


@dataclass(frozen=True)
class TrainedArm:
    """An arm, or what of it serves `tasks` alone, with ranges over its pretraining seeds."""

    name: str
    tasks: str
    seeds: str
    sources: str
    frames: str
    steps: str
    samples: str
    epochs: str
    time: str


@dataclass(frozen=True)
class KeptOut:
    """Cases of the pool that the leak guard found to be held-out ones: how it did, and what they became."""

    pool: str
    test: str
    tasks: str
    how: str
    became: str


def trained_arms(results: StudyResults, known: KnownCases) -> list[TrainedArm]:
    """All arms, a line for each set of tasks that has pretrainings of its own."""
    return [
        trained_arm(arm, tasks, runs, [sources_of(run, known, source_fields(results)) for run in runs])
        for (arm, tasks), runs in served(results.pretrained, len(results.lock.tasks)).items()
    ]


def kept_out(results: StudyResults, known: KnownCases) -> tuple[list[KeptOut], list[str]]:
    """A line for each kind of leak, and the names of the pairs behind the lines that stand for many cases."""
    found = {(leak.pool, leak.test): leak for run in results.pretrained for leak in run.leaks}
    names = known.named([*sorted(pool for pool, _ in found), *(leak.test for leak in found.values())])
    of = " of the pretrainings that these tasks are scored with" if results.study.leave_out == "task" else ""
    rows, pairs = [], []
    for line in fold([found[pair].model_dump() for pair in sorted(found)]):
        one = len(line.pools) == 1
        pool, test = (names[line.pools[0]], names[line.tests[0]]) if one else (line.pool, line.test)
        if not one:
            pairs += [f"{names[a]}: {names[b]}" for a, b in zip(line.pools, line.tests, strict=True)]
        seen = all(map(known.may_show, (*line.pools, *line.tests)))
        how = line.how if seen else "the reason names private cases"
        became = line.became if line.became == KEPT else f"{line.became} before sampling{of}"
        rows.append(KeptOut(pool, test, ", ".join(line.tasks), how, became))
    return rows, pairs


def trained_arm(arm: str, tasks: str, runs: Sequence[Pretrained], drawn: Sequence[Mapping[str, int]]) -> TrainedArm:
    """The runs of an arm as ranges; `drawn`: source -> cases of each run."""
    ended = [run.done for run in runs if run.done is not None]
    hours = [done.seconds / 3600 for done in ended]
    names = dict.fromkeys(name for seed in drawn for name in seed)
    epochs = (
        (f"{source} " if len(runs[0].epochs) > 1 else "") + _range((run.epochs.get(source, 0.0) for run in runs), 1)
        for source in runs[0].epochs
    )
    frames, steps, samples = (
        _range(float(getattr(run, what)) for run in runs) for what in ("frames", "steps", "samples")
    )
    return TrainedArm(
        name=arm,
        tasks=tasks,
        seeds=f"{len(ended)} of {len(runs)}",
        sources=", ".join(f"{name} {_range(seed.get(name, 0) for seed in drawn)}" for name in names),
        frames=frames,
        steps=steps,
        samples=samples,
        epochs="; ".join(epochs),
        time=duration(sum(hours) / len(hours)) if hours else "–",
    )


def _range(values: Iterable[float], digits: int = 0) -> str:
    listed = [f"{value:,.{digits}f}" for value in sorted(values)]
    return listed[0] if listed[0] == listed[-1] else f"{listed[0]} to {listed[-1]}"


def study_file(results: StudyResults, known: KnownCases) -> Any:
    """The study file as a tree; None where it may name hospitals of private cases."""
    if known.private or known.unread or known.hidden:
        return None
    return tree_without_folders(results.study.model_dump(mode="json"))


def facts(results: StudyResults) -> Iterator[tuple[str, str]]:
    """Name and text: time, machines, versions, code, fingerprints."""
    lock = results.lock
    done = [found for name in lock.stages if (found := results.store.done(name)) is not None]
    yield "stages", f"{len(done)} of {len(lock.stages)} done (one of them is this report)"
    for device, seconds in _seconds(done).items():
        yield f"time on {device}", f"{duration(seconds / 3600)}, all attempts"
    yield "machines", _distinct(one.host for one in done)
    yield "code", _distinct(one.git or "not from a git checkout" for one in done)
    for name in dict.fromkeys(name for one in done for name in one.versions):
        yield name, _distinct(one.versions.get(name) for one in done)
    yield "stage versions", ", ".join(f"{kind} {version}" for kind, version in lock.versions.items())
    yield "store", str(results.store.root.absolute())
    yield "catalog", f"{results.study.catalog}, fingerprint {lock.catalog}"
    for name, task in lock.tasks.items():
        tested = sum(len(cases) for cases in task.test_cases.values())
        yield (
            f"task {name}",
            f"{task.layout}, {task.frames:,} test frames of {tested} cases, {task.scheme}, fingerprint {task.data}",
        )
    for source, weights in lock.weights.items():
        told = weights.model_dump(mode="json")
        yield f"weights {source}", ", ".join(f"{key} {value}" for key, value in told.items() if value is not None)


def _seconds(done: Sequence[FinishedStage]) -> dict[str, float]:
    """Device -> seconds of stages that ran on it; the report itself is no part of the cost."""
    found: dict[str, float] = {}
    for one in done:
        if one.kind != "report":
            device = f"{one.device}, {one.kind}"
            found[device] = found.get(device, 0.0) + one.seconds
    return found


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value)) or "not recorded"
