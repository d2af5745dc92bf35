"""A graph of stages as few arrays: SLURM is called once per array, however many elements it has.

Stages that depend one to one on the elements of an array become an array with the same indices, each element waiting
for its own parent (`aftercorr`). Children of one parent are either several such arrays (the first child of each parent,
the second child of each ...) or an array per parent, whichever are fewer. All else waits for whole arrays or for a list
of elements (`afterok`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trocar.core.config import fingerprint
from trocar.errors import ConfigError, nearest

MAX_INDEX = 1000
"""Elements of one array: sbatch's default limit (MaxArraySize 1001) on their indices."""


@dataclass(frozen=True)
class JobStage:
    """One command of a graph. `name` is unique, `after` names the stages whose success it needs.

    `words` are those of the command line without the program, `resources` change fields of the profile. With `tolerant`
    it runs when those before have ended, whatever became of them.
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    tolerant: bool = False


Place = tuple[str, int | None]
"""An array (a planned one, or a job that is submitted already) and the index in it; None for a job that is no array."""


@dataclass
class Array:
    """Stages by index, what they wait for, and how many may run at once as a share of the profile's limit."""

    key: str
    stages: dict[int, JobStage]
    corresponding: tuple[str, ...] = ()
    after: tuple[Place, ...] = ()
    siblings: int = 1

    @property
    def resources(self) -> Mapping[str, Any]:
        """Of all its stages."""
        return next(iter(self.stages.values())).resources

    def dependency(self, jobs: Mapping[str, str]) -> str | None:
        """sbatch's --dependency, with the job ids of the arrays before; None if it waits for nothing."""
        kind = "afterany" if next(iter(self.stages.values())).tolerant else "afterok"
        parts = [f"aftercorr:{jobs.get(key, key)}" for key in self.corresponding]
        ids = [jobs.get(key, key) + ("" if index is None else f"_{index}") for key, index in self.after]
        return ",".join([*parts, *([f"{kind}:{':'.join(ids)}"] if ids else [])]) or None


def plan(stages: Sequence[JobStage], submitted: Mapping[str, str] | None = None, most: int = MAX_INDEX) -> list[Array]:
    """The arrays, each behind those that it waits for. `submitted`: job ids of stages that wait or run already.

    A name in `after` that is neither in `stages` nor in `submitted` counts as finished: see `check` for mistakes.
    """
    places: dict[str, Place] = {}
    for name, job in (submitted or {}).items():
        key, _, index = job.partition("_")
        places[name] = (key, int(index) if index else None)
    arrays: list[Array] = []
    for level in levels(stages):
        first = len(arrays)
        groups: dict[str, list[JobStage]] = defaultdict(list)
        for stage in level:
            groups[fingerprint([dict(stage.resources), stage.tolerant])].append(stage)
        for group in groups.values():
            for array in _arrays_of(group, places, arrays, most):
                arrays.append(array)
                places |= {stage.name: (array.key, index) for index, stage in array.stages.items()}
        for array in arrays[first:]:
            array.siblings = sum(other.resources == array.resources for other in arrays[first:])
    return arrays


def check(stages: Sequence[JobStage]) -> None:
    """Raises ConfigError for two stages of one name, names that files can't have, unknown parents and circles."""
    names = Counter(stage.name for stage in stages)
    for name, count in names.items():
        if count > 1:
            raise ConfigError(f"two stages are called {name!r}")
        if not name or set(name) & set("/ |\n"):
            raise ConfigError(f"{name!r} can't be the name of a stage: no blanks, slashes or bars")
    for stage in stages:
        for parent in stage.after:
            if parent not in names:
                raise ConfigError(f"stage {stage.name!r} waits for {parent!r}, which is none{nearest(parent, names)}")
    levels(stages)


def levels(stages: Iterable[JobStage]) -> list[list[JobStage]]:
    """Stages by the length of the longest way to them, in the order given. Raises ConfigError for a circle."""
    left = {stage.name: stage for stage in stages}
    found: list[list[JobStage]] = []
    while left:
        ready = [stage for stage in left.values() if not any(parent in left for parent in stage.after)]
        if not ready:
            raise ConfigError(f"these stages wait for each other in a circle: {', '.join(sorted(left))}")
        found.append(ready)
        for stage in ready:
            del left[stage.name]
    return found


def dependents(stages: Iterable[JobStage], names: Iterable[str]) -> set[str]:
    """All stages that wait for one of `names`, directly or through others, without these."""
    found = set(names)
    for level in levels(stages):
        found |= {stage.name for stage in level if found & set(stage.after)}
    return found - set(names)


def _arrays_of(
    stages: Sequence[JobStage], places: Mapping[str, Place], arrays: Sequence[Array], most: int
) -> Iterable[Array]:
    """The arrays of one level and kind of resources, by what they wait for."""
    planned = {array.key: array for array in arrays}
    aligned: dict[tuple[str, ...], list[tuple[int, JobStage]]] = defaultdict(list)
    waiting: dict[tuple[Place, ...], list[JobStage]] = defaultdict(list)
    for stage in stages:
        before = sorted({places[name] for name in stage.after if name in places}, key=str)
        index = _common_index(before, planned)
        if index is not None and not stage.tolerant:
            aligned[tuple(key for key, _ in before)].append((index, stage))
        else:
            waiting[_shortened(before, planned)].append(stage)
    number = len(arrays)
    for after, group in waiting.items():
        for start in range(0, len(group), most):
            yield Array(f"a{number}", dict(enumerate(group[start : start + most])), after=after)
            number += 1
    for keys, found in aligned.items():
        for array in _aligned(keys, found, number, most):
            yield array
            number += 1


def _aligned(keys: tuple[str, ...], found: list[tuple[int, JobStage]], number: int, most: int) -> Iterable[Array]:
    children: dict[int, list[JobStage]] = defaultdict(list)
    for index, stage in found:
        children[index].append(stage)
    widest = max(map(len, children.values()))
    if widest <= len(children):
        for nth in range(widest):
            stages = {index: group[nth] for index, group in children.items() if len(group) > nth}
            yield Array(f"a{number + nth}", stages, corresponding=keys)
        return
    for index, group in children.items():
        for start in range(0, len(group), most):
            after = tuple((key, index) for key in keys)
            yield Array(f"a{number}", dict(enumerate(group[start : start + most])), after=after)
            number += 1


def _common_index(before: Sequence[Place], planned: Mapping[str, Array]) -> int | None:
    """The index that all parents share, one in each of several arrays of this plan; else None."""
    indices = {index for _, index in before}
    distinct = len({key for key, _ in before}) == len(before)
    if len(indices) != 1 or not distinct or any(key not in planned for key, _ in before):
        return None
    return next(iter(indices))


def _shortened(before: Sequence[Place], planned: Mapping[str, Array]) -> tuple[Place, ...]:
    """Whole arrays instead of all their elements."""
    by_array: dict[str, list[Place]] = defaultdict(list)
    for place in before:
        by_array[place[0]].append(place)
    short: list[Place] = []
    for key, found in by_array.items():
        whole = key in planned and len(found) == len(planned[key].stages)
        short += [(key, None)] if whole else found
    return tuple(short)
