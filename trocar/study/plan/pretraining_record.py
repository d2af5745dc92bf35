"""One pretraining of an arm, as the plan finds it, the lock keeps it and the report reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar


@dataclass(frozen=True)
class ArmRun:
    """`tasks` are scored with it, `stage` is its name, `asked` the hash of what the study says about it (the data it
    finds are `selection`). `cases` are named source/case, `epochs` is per source, `leaks` are pool cases that are
    held-out ones, `init` is the name of its first weights, `size` its main view and `precision` what it computes in.
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
    epochs: Mapping[str, float]
    notes: tuple[str, ...]
    leaks: tuple[Mapping[str, Any], ...]
    init: str
    size: int
    precision: str

    def to_json(self) -> dict[str, Any]:
        """For the lock."""
        return {**asdict(self), "epochs": dict(self.epochs)}


R = TypeVar("R", bound=ArmRun)


def fields_in(run: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `ArmRun` as a lock has them."""
    found = {field.name: run[field.name] for field in fields(ArmRun)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def served(runs: Sequence[R], tasks: int) -> dict[tuple[str, str], list[R]]:
    """(arm, the tasks its pretrainings serve in words, '' for all `tasks`) -> these pretrainings."""
    found: dict[tuple[str, str], list[R]] = {}
    for run in runs:
        found.setdefault((run.arm, ", ".join(run.tasks) if len(run.tasks) < tasks else ""), []).append(run)
    return found
