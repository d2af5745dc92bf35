"""How the arms of a study were trained, and what everything ran on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trocar.core.progress import duration
from trocar.leakage.guard import KEPT
from trocar.leakage.verdict import fold
from trocar.privacy.redaction import tree_without_folders
from trocar.report.known_cases import KnownCases
from trocar.report.study_arms import source_fields, sources_of
from trocar.study.results import Pretrained, StudyResults
from trocar.study.stages import FinishedStage
from trocar.study.study_lock import served


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
