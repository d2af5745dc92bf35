"""Where results lie: STORE/stages/<name>/ for each stage, shared by all studies of the store.

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from trocar.core.files import sha256_of, write_atomic
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import Holder, read_holder
from trocar.study.stages import FailedAttempt, FinishedStage, Keep, Stage, StageSpec, faults

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
