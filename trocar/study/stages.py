"""Stages of a study: one command each, named by the hash of everything that determines its result.

Also the records that a study keeps of its stages as JSON and YAML, typed where they are read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trocar.core.config import fingerprint
from trocar.errors import TrocarError

Kind = Literal["pretrain", "evaluate", "report"]
Keep = Literal["backbone", "full"]

STAGE_VERSION: Mapping[Kind, int] = {"pretrain": 2, "evaluate": 5, "report": 2}
"""Raised when the results of a kind of stage change for equal inputs; then its stages are computed again."""

RESULTS: Mapping[Kind, str] = {
    "pretrain": "backbone/model.safetensors",
    "evaluate": "predictions.parquet",
    "report": "results.csv",
}
"""The file that a stage of each kind is run for, below the stage's `out`."""

MOST_FAULTS = 3
"""Wrong fields that an error names; a record of another version may have hundreds."""


class StudyRecord(BaseModel):
    """Base of everything that a study writes down and reads back: types are exact, values never change."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @classmethod
    def read(cls, path: Path, remedy: str) -> Self | None:
        """The record in a JSON file; None where there is no file.

        Raises TrocarError for a file that does not fit, with the fields that are wrong and `remedy`: what to do.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise TrocarError(f"{path} is damaged ({faults(error)}); {remedy}") from None


def faults(error: ValidationError) -> str:
    """The fields of a record that are wrong, and why: `runs.0.steps: Input should be a valid integer`."""
    found = error.errors(include_url=False, include_context=False)
    told = [": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"]))) for item in found[:MOST_FAULTS]]
    return "; ".join([*told, f"{len(found) - MOST_FAULTS} more"] if len(found) > MOST_FAULTS else told)


@dataclass(frozen=True)
class Stage:
    """One command. Equal results have equal names, in every study.

    `inputs`: all that determines the result, as JSON values, without where things lie. `config`: the command's
    configuration as far as it does not depend on the store. `parents`: names of stages whose results it needs.
    `parent_backbone`: the pretraining whose backbone an evaluation takes. `like`: what has the same speed (a hash), and
    `work` how much of it there is, for estimates.
    """

    kind: Kind
    inputs: Mapping[str, Any]
    config: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    parent_backbone: str | None = None
    like: str = ""
    work: float = 1.0
    version: int = field(default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.version or STAGE_VERSION[self.kind])

    @cached_property
    def name(self) -> str:
        """`<kind>-<hash>` over kind, version, inputs and parents."""
        tree = {"kind": self.kind, "version": self.version, "inputs": self.inputs, "parents": list(self.parents)}
        return f"{self.kind}-{fingerprint(tree)}"


class StageSpec(StudyRecord):
    """stage.yaml: a stage, with the CPU `threads` of its process and what of a pretraining to `keep`."""

    name: str
    kind: Kind
    version: int
    parents: tuple[str, ...]
    parent_backbone: str | None
    inputs: dict[str, Any]
    config: dict[str, Any]
    like: str
    work: float
    threads: int | None
    keep: Keep

    @classmethod
    def of(cls, stage: Stage, threads: int | None, keep: Keep) -> StageSpec:
        """What a stage is written down as."""
        return cls(**_described(stage), config=dict(stage.config), threads=threads, keep=keep)

    @property
    def stage(self) -> Stage:
        """The stage that was written down."""
        parts = ("kind", "inputs", "config", "parents", "parent_backbone", "like", "work", "version")
        return Stage(**{part: getattr(self, part) for part in parts})


class FinishedStage(StudyRecord):
    """done.json: what a finished stage was, what it left, and what that took.

    `seconds`: wall clock of all `attempts`. `ended`: seconds since 1970. `git`: the commit of the code, None outside a
    checkout. `bytes`: size of everything in `out`. `versions`: package -> version. `sizes` (bytes) and `outputs`
    (sha256) are of the result files, by their path below `out`.
    """

    # A store may be shared with a newer Trocar that notes more: its results are no worse for that.
    model_config = ConfigDict(extra="ignore")

    name: str
    kind: Kind
    version: int
    parents: tuple[str, ...]
    parent_backbone: str | None
    inputs: dict[str, Any]
    like: str
    work: float
    seconds: float
    attempts: int
    ended: float
    host: str
    device: str
    git: str | None
    bytes: int
    versions: dict[str, str]
    sizes: dict[str, int]
    outputs: dict[str, str]

    @classmethod
    def of(cls, stage: Stage, **measured: Any) -> FinishedStage:
        """The record of a stage, with the fields from `seconds` on."""
        return cls(**_described(stage), **measured)


class FailedAttempt(StudyRecord):
    """failed.json: the last attempt at a stage, its exit code and the host it ran on."""

    attempt: str
    code: int
    host: str


def _described(stage: Stage) -> dict[str, Any]:
    parts = ("name", "kind", "version", "parents", "parent_backbone", "like")
    return {part: getattr(stage, part) for part in parts} | {"inputs": dict(stage.inputs), "work": float(stage.work)}
