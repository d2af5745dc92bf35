"""study.lock: what a study expanded to, and on which data, down to the cases of every arm and draw.

The lock is what a study is read back from: `study status`, the report and mlflow need no data to be opened again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from trocar.core.files import write_json_atomic
from trocar.core.plugins import plugin_changes
from trocar.errors import ConfigError, TrocarError
from trocar.study.config import StudyConfig
from trocar.study.stages import Kind, Store, StudyRecord, faults

NAME = "study.lock"
FORMAT = 5
"""Raised when the content of the file changes."""

Folds = dict[str, tuple[str, ...]]
"""Fold -> ids of cases."""


class FoundLeak(StudyRecord):
    """A case of an arm's pool that is a held-out one, or looks like one; `Leak` of the leak guard, as it is recorded.

    `became` says in words what was done about it; `pictures`: how many pictures it is about, 0 for the whole case.
    """

    pool: str
    test: str
    tasks: tuple[str, ...]
    verdict: str
    how: str
    frames: int = 0
    pictures: int = 0
    became: str


class ArmRun(StudyRecord):
    """One pretraining of an arm, as the plan finds it and the report reads it.

    `tasks` are scored with it, `stage` is its name, `asked` the hash of what the study says about it (the data it
    finds are `selection`). `cases` are named source/case, `epochs` is per source, `leaks` are pool cases that are
    held-out ones, `init` is the name of its first weights, `size` its main view in pixels and `precision` what it
    computes in.
    """

    arm: str
    seed: int
    tasks: tuple[str, ...]
    stage: str
    asked: str
    selection: str
    cases: tuple[str, ...]
    frames: int
    steps: int
    samples: int
    epochs: dict[str, float]
    notes: tuple[str, ...]
    leaks: tuple[FoundLeak, ...]
    init: str
    size: int
    precision: str


class LockedTask(StudyRecord):
    """A task with its data as the plan found them.

    `asked`: hash of what the study says about the data, `data` the fingerprint of what it found below `root`. `task` is
    what is compared, by `metric`. `frames`: how many carry a label of it. `draws`: budget -> draw -> fold -> labelled
    training cases. `scored`: the test cases that are compared, None for all.
    """

    asked: str
    task: str
    metric: str
    root: str
    layout: str
    data: str
    frames: int
    scheme: str
    test_cases: Folds
    val_cases: Folds
    draws: dict[str, tuple[Folds, ...]]
    scored: tuple[str, ...] | None
    precision: str

    @property
    def tested(self) -> tuple[str, ...]:
        """Test cases of all folds, each once, sorted."""
        return tuple(sorted({case for fold in self.test_cases.values() for case in fold}))


class LockedEvaluation(StudyRecord):
    """One evaluation and its place in the study; `stage` is its name.

    The predictions of it are of `members`, each with `draws` of the budget, each with `starts` of the protocol; `seed`
    is the pretraining seed (None: the members are seeds). `kind`: pretrained, init, random or backbone.
    """

    arm: str
    kind: str
    seed: int | None
    task: str
    protocol: str
    budget: str
    members: int
    draws: int
    starts: int
    stage: str


class LockedStage(StudyRecord):
    """A stage of the graph: what it waits for (`parents`), what it is in words (`label`), and for estimates of its time
    what is `like` it, and how much `work` it is.
    """

    kind: Kind
    parents: tuple[str, ...]
    label: str
    like: str
    work: float


class LockedWeights(StudyRecord):
    """What the weights of a backbone were, as `weight_store` tells it; equal for equal weights."""

    kind: str
    name: str | None = None
    part: str | None = None
    sha256: str | tuple[str, ...] | None = None

    @model_serializer(mode="wrap")
    def _as_told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}


class StudyLock(StudyRecord):
    """A study with its data looked up.

    `trocar`: the version that planned it. `versions`: kind of stage -> STAGE_VERSION. `plugins`: package -> what
    `plugins_in` says of those that take part. `catalog`: its fingerprint.
    `weights`: name of a backbone -> what it was. `init_of`: arm -> the baseline that it began from. `left_out`: arms
    that are not in the study -> why. `report` is the last of `stages`, which are in an order that they can be run in.
    """

    format: int
    trocar: str
    study: StudyConfig
    versions: dict[Kind, int]
    plugins: dict[str, dict[str, str]]
    catalog: str
    weights: dict[str, LockedWeights]
    runs: tuple[ArmRun, ...]
    init_of: dict[str, str]
    tasks: dict[str, LockedTask]
    evaluations: tuple[LockedEvaluation, ...]
    contrasts: tuple[tuple[str, str], ...]
    left_out: dict[str, str]
    report: str
    stages: dict[str, LockedStage]


R = TypeVar("R", bound=ArmRun)


def served(runs: Sequence[R], tasks: int) -> dict[tuple[str, str], list[R]]:
    """(arm, the tasks its pretrainings serve in words, '' for all `tasks`) -> these pretrainings."""
    found: dict[tuple[str, str], list[R]] = {}
    for run in runs:
        found.setdefault((run.arm, ", ".join(run.tasks) if len(run.tasks) < tasks else ""), []).append(run)
    return found


def path_of(store: Store, study: str) -> Path:
    """Where the lock of a study lies."""
    return store.study(study) / NAME


def write_lock(store: Store, lock: StudyLock) -> Path:
    """Write it; returns its path."""
    path = path_of(store, lock.study.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, lock.model_dump(mode="json"))
    return path


def read_lock(store: Store, study: str) -> StudyLock | None:
    """The lock of a study, None if it was never planned.

    Raises TrocarError for a lock that is damaged, of another format, or does not fit, with the fields that are wrong.
    """
    path = path_of(store, study)
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrocarError(f"{path} is damaged ({error}); delete it and plan the study again") from None
    form = tree.get("format") if isinstance(tree, dict) else None
    if form != FORMAT:
        raise TrocarError(f"{path} has format {form}, this is {FORMAT}; delete it and plan the study again")
    try:
        return StudyLock.model_validate_json(text)
    except ValidationError as error:
        raise TrocarError(f"{path} does not fit ({faults(error)}); delete it and plan the study again") from None


def require_lock(store: Store, study: str) -> StudyLock:
    """The lock. Raises ConfigError where there is none, and what `read_lock` raises."""
    lock = read_lock(store, study)
    if lock is None:
        raise ConfigError(f"study {study} has not been planned in {store.root}: run `trocar study plan` first")
    return lock


def drift(old: StudyLock, new: StudyLock) -> list[str]:
    """What differs between two locks although the study file asks for the same: data that came, went or changed,
    other weights under a name, an edited plugin, raised stage versions. One line each; empty if nothing does.
    """
    plugins = plugin_changes(old.plugins, new.plugins)
    return [*_versions(old, new), *plugins, *_runs(old, new), *_tasks(old, new), *_weights(old, new)]


def edits(old: StudyLock, new: StudyLock) -> list[str]:
    """Keys of the study file that were edited between two locks."""
    return sorted(key for key in StudyConfig.model_fields if getattr(old.study, key) != getattr(new.study, key))


def _versions(old: StudyLock, new: StudyLock) -> Iterator[str]:
    for kind, version in new.versions.items():
        before = old.versions.get(kind)
        if before != version:
            count = sum(stage.kind == kind for stage in new.stages.values())
            yield f"stage version of {kind}: {before} -> {version}; its {count} stages are computed again"


def _runs(old: StudyLock, new: StudyLock) -> Iterator[str]:
    before = {(run.arm, run.seed, run.asked): run for run in old.runs}
    for run in new.runs:
        known = before.get((run.arm, run.seed, run.asked))
        if known is not None and known.selection != run.selection:
            yield f"arm {run.arm}, seed {run.seed}: {_cases(known.cases, run.cases)}"
        if known is not None and known.precision != run.precision:
            yield (
                f"arm {run.arm}, seed {run.seed}: train.precision: auto was {known.precision} and is {run.precision} "
                f"on this machine or profile; pretrain.set: [train.precision={known.precision}] keeps it"
            )


def _tasks(old: StudyLock, new: StudyLock) -> Iterator[str]:
    same = (old.study.precision, old.study.device) == (new.study.precision, new.study.device)
    for name, task in new.tasks.items():
        known = old.tasks.get(name)
        if known is not None and known.precision != task.precision and same:
            yield (
                f"task {name}: precision: auto was {known.precision} and is {task.precision} on this machine or "
                f"profile; precision: {known.precision} keeps it"
            )
        if known is not None and known.asked == task.asked and known.data != task.data:
            yield f"task {name}: its labels have changed; test cases: {_cases(known.tested, task.tested)}"


def _weights(old: StudyLock, new: StudyLock) -> Iterator[str]:
    for source, found in new.weights.items():
        if old.weights.get(source, found) != found:
            yield f"backbone {source}: other weights than before"


def _cases(before: Sequence[str], after: Sequence[str]) -> str:
    come, gone = sorted(set(after) - set(before)), sorted(set(before) - set(after))
    if not come and not gone:
        return "the same cases with other frames"
    parts = [f"{len(names)} {word} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
             for names, word in ((come, "new"), (gone, "gone")) if names]  # fmt: skip
    return f"{len(after)} cases, {' and '.join(parts)}"
