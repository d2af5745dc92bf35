"""Where results lie: STORE/stages/<name>/ for each stage, shared by all studies of the store.

stage.yaml       what it is: inputs, configuration, parents
config.yaml      what the command was given
log.txt          what it said, over all attempts
attempts.jsonl   when each attempt began and ended
out/             what the command wrote
failed.json      how the last attempt failed; gone when another begins
done.json        written last: the stage has ended and is never run again

Whether what a finished stage left is still what it wrote: files are cut short or replaced behind a study's back.
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

from trocar.core.files import sha256_of, write_atomic
from trocar.errors import ConfigError, TrocarError
from trocar.runs.lease import Holder, read_holder
from trocar.study.run.stages import Stage


def check_size(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is missing or of another size than it was made."""
    for file, size in ((store.done(name) or {}).get("sizes") or {}).items():
        path = store.out(name) / file
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise _damaged(store, name, path, "is missing" if found is None else f"has {found} of {size} bytes")


def check_content(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is not the very file that it wrote; reads all of it."""
    check_size(store, name)
    for file, digest in ((store.done(name) or {}).get("outputs") or {}).items():
        path = store.out(name) / file
        if sha256_of(path) != digest:
            raise _damaged(store, name, path, "is not the file that the stage wrote")


def _damaged(store: Store, name: str, path: Path, what: str) -> TrocarError:
    return TrocarError(f"{path} {what}; delete {store.folder(name)} and run the study again, which makes it anew")


DONE, FAILED, SPEC, LOG, ATTEMPTS, OUT = "done.json", "failed.json", "stage.yaml", "log.txt", "attempts.jsonl", "out"


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

    def done(self, name: str) -> dict[str, Any] | None:
        """done.json, None while there is none."""
        return _read(self.folder(name) / DONE)

    def failure(self, name: str) -> dict[str, Any] | None:
        """failed.json of the last attempt, None if it has not failed."""
        return None if self.is_done(name) else _read(self.folder(name) / FAILED)

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

    def put(self, stage: Stage, threads: int | None, keep: str) -> Path:
        """Write stage.yaml, unless it is there; returns the stage's folder."""
        folder = self.folder(stage.name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DONE).is_file():
            tree = {**stage.to_json(), "threads": threads, "keep": keep}
            write_atomic(folder / SPEC, yaml.safe_dump(_plain(tree), sort_keys=False, allow_unicode=True))
        return folder

    def all_done(self) -> Iterator[dict[str, Any]]:
        """done.json of every finished stage of the store."""
        folder = self.root.absolute() / "stages"
        for path in sorted(folder.glob(f"*/{DONE}")) if folder.is_dir() else ():
            found = _read(path)
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


def read_spec(folder: Path) -> tuple[Stage, dict[str, Any]]:
    """The stage of a folder and all of stage.yaml. Raises ConfigError where there is none, TrocarError if damaged."""
    try:
        tree = yaml.safe_load((folder / SPEC).read_text(encoding="utf-8"))
        extra = {key: tree.pop(key) for key in ("threads", "keep")}
        stage = Stage.from_json(tree)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no stage of a study: it has no {SPEC}") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise TrocarError(f"{folder / SPEC} is damaged ({error}); delete it and run the study again") from None
    return stage, extra


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


def _read(path: Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrocarError(f"{path} is damaged ({error}); delete it and run the study again") from None
    return tree if isinstance(tree, dict) else None


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as text, which YAML can hold."""
    return json.loads(json.dumps(value, default=str))
