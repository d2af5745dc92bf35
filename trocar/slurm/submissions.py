"""What was submitted: FOLDER/<job>.job.json beside submitit's files, and the list of all in the directory of the user.

`trocar jobs` works from these, the run folders and the scheduler.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trocar.core.files import write_json_atomic
from trocar.errors import ConfigError

REGISTRY = Path(".trocar") / "jobs.jsonl"
SUBFOLDER = "slurm"
"""Of an output folder: scripts, pickles, logs and records of the jobs that write into it."""


@dataclass(frozen=True)
class Submission:
    """One sbatch call. `elements` names the stage of each index of an array; it is empty for a single job.

    `submitted` is in Unix seconds, `started` the start time of a local job's process (see `runs.process_identity`).
    """

    job: str
    name: str
    words: tuple[str, ...]
    out: str
    folder: str
    cwd: str
    profile: dict[str, Any]
    submitted: float
    elements: dict[str, str] = field(default_factory=dict)
    started: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether submitit's local executor runs it."""
        return self.profile.get("cluster") == "local"

    @property
    def ids(self) -> list[str]:
        """Job ids as SLURM and submitit name them: `12`, or `12_0`, `12_1` ... of an array."""
        return [f"{self.job}_{index}" for index in self.elements] or [self.job]

    def log(self, job: str | None = None, stream: str = "err") -> Path:
        """The log of rank 0; other ranks have their number in place of the 0."""
        return Path(self.folder) / f"{job or self.ids[0]}_0_log.{stream}"


def folder_of(out: str | Path) -> Path:
    """Where the files of jobs that write to `out` are, as an absolute path."""
    return Path(out).absolute() / SUBFOLDER


def save(submission: Submission, directory: Path | None = None) -> None:
    """Write the record, and a line in the registry of `directory` (default: the one the words were typed in)."""
    write_json_atomic(_path(Path(submission.folder), submission.job), asdict(submission))
    registry = (directory or Path(submission.cwd)) / REGISTRY
    registry.parent.mkdir(exist_ok=True)
    line = json.dumps({"job": submission.job, "folder": submission.folder}) + "\n"
    descriptor = os.open(registry, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def submitted_from(directory: Path) -> list[Submission]:
    """All that was submitted from a directory and still has its record, the oldest first."""
    try:
        lines = (directory / REGISTRY).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    found = {}
    for line in lines:
        entry = json.loads(line)
        if (submission := _load(_path(Path(entry["folder"]), entry["job"]))) is not None:
            found[submission.folder, submission.job] = submission
    return sorted(found.values(), key=lambda s: s.submitted)


def submitted_for(out: Path) -> list[Submission]:
    """All jobs that were submitted to write to one output folder, the oldest first. Raises ConfigError for none."""
    found = in_folder(folder_of(out))
    if not found:
        raise ConfigError(f"{out}: no job was submitted for this folder (there is no {SUBFOLDER}/*.job.json in it)")
    return found


def in_folder(folder: Path) -> list[Submission]:
    """All submissions with a record in a folder of jobs, the oldest first."""
    records: Iterable[Submission | None] = map(_load, folder.glob("*.job.json"))
    return sorted((record for record in records if record is not None), key=lambda s: s.submitted)


def _path(folder: Path, job: str) -> Path:
    return folder / f"{job}.job.json"


def _load(path: Path) -> Submission | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Submission(**{**tree, "words": tuple(tree["words"])})
