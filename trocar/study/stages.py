"""Stages of a study: one command each, named by the hash of everything that determines its result.

Also the records that a study keeps of its stages as JSON and YAML, typed where they are read back, and where results
lie: STORE/stages/<name>/ for each stage, shared by all studies of the store.

stage.yaml       what it is: inputs, configuration, parents
config.yaml      what the command was given
log.txt          what it said, over all attempts
attempts.jsonl   when each attempt began and ended
out/             what the command wrote
failed.json      how the last attempt failed; gone when another begins
done.json        written last: the stage has ended and is never run again

Results of finished stages are checked before they are used: a file may have been cut short or replaced since.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trocar.core.config import fingerprint
from trocar.core.files import sha256_of, write_atomic
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import Holder, read_holder

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


DONE, FAILED, SPEC, LOG, ATTEMPTS, OUT = "done.json", "failed.json", "stage.yaml", "log.txt", "attempts.jsonl", "out"
REMEDY = "delete it and run the study again"


@dataclass(frozen=True)
class Store:
    """A folder of stages. Two programs may use it at once."""

    root: Path

    def folder(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root.absolute() / "stages" / name

    def out(self, name: str) -> Path:
        """What the stage's command writes to."""
        return self.folder(name) / OUT

    def study(self, name: str) -> Path:
        """The folder of a study: its lock and what is its own."""
        return self.root.absolute() / "studies" / name

    @property
    def cache(self) -> Path:
        """Decoded frames and features, shared by all evaluations."""
        return self.root.absolute() / "cache"

    def is_done(self, name: str) -> bool:
        """Whether the stage has ended well. Raises TrocarError for a done.json that can't be read."""
        return self.done(name) is not None

    def done(self, name: str) -> FinishedStage | None:
        """done.json, None while there is none. Raises TrocarError if it can't be read."""
        return FinishedStage.read(self.folder(name) / DONE, REMEDY)

    def failure(self, name: str) -> FailedAttempt | None:
        """failed.json of the last attempt, None if it has not failed. Raises TrocarError if it can't be read."""
        return None if self.is_done(name) else FailedAttempt.read(self.folder(name) / FAILED, REMEDY)

    def worker(self, name: str) -> Holder | None:
        """The process that works on the stage, as far as can be told from here; None if none does."""
        holder = read_holder(self.folder(name)) if self.folder(name).is_dir() else None
        return None if holder is None or holder.is_dead() else holder

    def state(self, name: str) -> str:
        """done, running, failed, stopped (begun and then interrupted) or waiting."""
        if self.is_done(name):
            return "done"
        if self.worker(name) is not None:
            return "running"
        if self.failure(name) is not None:
            return "failed"
        return "stopped" if (self.folder(name) / ATTEMPTS).is_file() else "waiting"

    def put(self, stage: Stage, threads: int | None, keep: Keep) -> Path:
        """Write stage.yaml, unless it is there; returns the stage's folder."""
        folder = self.folder(stage.name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DONE).is_file():
            tree = StageSpec.of(stage, threads, keep).model_dump(mode="json")
            write_atomic(folder / SPEC, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        return folder

    def all_done(self) -> Iterator[FinishedStage]:
        """done.json of every finished stage of the store."""
        folder = self.root.absolute() / "stages"
        for path in sorted(folder.glob(f"*/{DONE}")) if folder.is_dir() else ():
            found = FinishedStage.read(path, REMEDY)
            if found is not None:
                yield found

    def log_tail(self, name: str, lines: int = 5) -> list[str]:
        """The last lines that the stage's command said."""
        try:
            with (self.folder(name) / LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 64 * 1024))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [line for line in text.splitlines() if line.strip()][-lines:]


def check_size(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is missing or of another size than it was made."""
    done = store.done(name)
    for file, size in done.sizes.items() if done is not None else ():
        path = store.out(name) / file
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise _damaged(store, name, path, "is missing" if found is None else f"has {found} of {size} bytes")


def check_content(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is not the very file that it wrote; reads all of it."""
    check_size(store, name)
    done = store.done(name)
    for file, digest in done.outputs.items() if done is not None else ():
        path = store.out(name) / file
        if sha256_of(path) != digest:
            raise _damaged(store, name, path, "is not the file that the stage wrote")


def _damaged(store: Store, name: str, path: Path, what: str) -> TrocarError:
    return TrocarError(f"{path} {what}; delete {store.folder(name)} and run the study again, which makes it anew")


def read_spec(folder: Path) -> StageSpec:
    """stage.yaml of a folder. Raises ConfigError where there is none, TrocarError if it is damaged."""
    path = folder / SPEC
    try:
        return StageSpec.model_validate_json(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no stage of a study: it has no {SPEC}") from None
    except ValidationError as error:
        raise TrocarError(f"{path} is damaged ({faults(error)}); {REMEDY}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise TrocarError(f"{path} is damaged ({error}); {REMEDY}") from None


def attempts(folder: Path) -> list[dict[str, Any]]:
    """Events of a stage, oldest first; lines that a kill tore are left out."""
    try:
        lines = (folder / ATTEMPTS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def note(folder: Path, **event: Any) -> None:
    """Append an event with the time; one write, so that a kill can tear only the last line."""
    line = "\n" + json.dumps({**event, "time": round(time.time(), 3)}) + "\n"
    descriptor = os.open(folder / ATTEMPTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
