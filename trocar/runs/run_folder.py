"""A run folder: who it is (run.json), how it was configured (config.yaml), what it logged (metrics/), how far it is.

metrics/<attempt>.jsonl: the record of a run, one JSON object a line, one file per attempt.

A line is `{"step": 10, "time": 1767225600.0, "loss": 9.01, ...}`: `time` is Unix seconds and is left out of
`read_metrics`, because two runs that are equal in everything else differ in it. Finite numbers are written with
`repr`, so they come back bit for bit; NaN and the infinities, which JSON has no word for, are the strings "NaN",
"Infinity" and "-Infinity", and come back as floats.

Attempts form a line of descent. An attempt resumes from a checkpoint, so what an older attempt logged from the new
attempt's *first logged step* on is not this run's history any more:

    a row (attempt b, step n) counts  if and only if  every attempt a > b has no rows, or its first row's step
    is > n

Rows before that first step stay; an attempt that died before its first row hides nothing. Several lines for one step
within an attempt are one row (a later line adds keys, or replaces values).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import yaml

from trocar import __version__
from trocar.core.files import locked, write_atomic, write_json_atomic
from trocar.core.resources import is_gone, this_process
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.redaction import redact_tree

Status = Literal["running", "finished", "failed", "killed"]


@dataclass
class Run:
    """One attempt at a run. Open it while holding the folder's lease; only one process writes at a time."""

    folder: Path
    run_id: str
    attempt: int
    _writer: MetricsWriter = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path, config: Mapping[str, Any]) -> Run:
        """Create the run folder, or reopen it for the next attempt.

        `run_id` is made once and kept. `config` (plain values, as `model_dump(mode="json")` gives them) is
        written to config.yaml without credentials; one that differs is kept as `config.until-<attempt>.yaml`.
        The attempt is one more than the highest in metrics/. Raises TrocarError when run.json can't be read.
        """
        folder = Path(folder)
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        attempt = max(attempts(folder), default=0) + 1
        writer = MetricsWriter(folder / FOLDER / f"{attempt:04d}.jsonl")
        _write_config(folder, config, attempt)
        record = update_record(folder, status="running", attempt=attempt, ended=None, process=this_process())
        return cls(folder, record["run_id"], attempt, writer)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of numbers for `step`; anything `float()` takes is a number (0-d arrays and tensors
        too).
        """
        self._writer.append(step, values, time.time())

    def finish(self, status: Status) -> None:
        """Say how the attempt ended and close its file. A later attempt sets the status back to running."""
        update_record(self.folder, status=status, ended=_now())
        self._writer.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """An exception is `failed`, an exit or interrupt `killed`; leaving normally is `finished`."""
        if kind is None:
            self.finish("finished")
        else:
            self.finish("failed" if issubclass(kind, Exception) else "killed")


def read_record(folder: str | Path) -> dict[str, Any]:
    """run.json of a run folder. Raises ConfigError when there is none, TrocarError when it is damaged."""
    path = Path(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not a run folder: it has no run.json") from None
    except ValueError as error:
        raise TrocarError(f"{path} is damaged ({error}); delete it to give the run a new identity") from None
    if not isinstance(record, dict) or not isinstance(record.get("run_id"), str):
        raise TrocarError(f"{path} is damaged (no run_id); delete it to give the run a new identity")
    return record


def run_status(record: Mapping[str, Any]) -> Status:
    """The status of a run.json, where a run whose process is known to be gone isn't `running` but `killed`."""
    status: Status = record.get("status", "running")
    return "killed" if status == "running" and is_gone(record.get("process", {})) else status


def update_record(folder: str | Path, **changes: Any) -> dict[str, Any]:
    """Set keys of run.json, made first if absent; the trainer and the tracking process both do. Returns all
    of it.
    """
    folder = Path(folder)
    with locked(folder / ".run.lock"):
        if (folder / "run.json").exists():
            record = read_record(folder)
        else:
            record = {"run_id": uuid.uuid4().hex, "created": _now()}
        record.update({"trocar_version": __version__, **changes})
        write_json_atomic(folder / "run.json", record)
    return record


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.yaml of a run folder, credentials already removed; empty when the file is absent."""
    path = Path(folder) / "config.yaml"
    if not path.exists():
        return {}
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tree if isinstance(tree, dict) else {}


def _write_config(folder: Path, config: Mapping[str, Any], attempt: int) -> None:
    path = folder / "config.yaml"
    plain = json.loads(json.dumps(dict(config), default=str))
    text = yaml.safe_dump(redact_tree(plain), sort_keys=False, allow_unicode=True)
    if path.exists() and (old := path.read_text(encoding="utf-8")) != text:
        write_atomic(folder / f"config.until-{attempt - 1:04d}.yaml", old)
    write_atomic(path, text)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


RECENT = 20
"""Logged steps that the speed is taken from."""


@dataclass(frozen=True)
class RunProgress:
    """`step` steps of `total` are logged; `left_s` is the time the rest takes at the present speed. None: not known."""

    step: int | None = None
    total: int | None = None
    images_per_s: float | None = None
    left_s: float | None = None
    checkpoint: int | None = None


def run_progress(out: Path) -> RunProgress:
    """Of a pretraining run; all None for a folder that is none, or whose run has not begun."""
    try:
        total = read_record(out).get("total_steps")
        files = attempts(out)
        rows = read_attempt(files[max(files)], max(files))[-RECENT:] if files else []
    except TrocarError:
        return RunProgress()
    step = rows[-1].step + 1 if rows else None
    speeds = [row.values["images_per_s"] for row in rows if "images_per_s" in row.values]
    return RunProgress(
        step, total, sum(speeds) / len(speeds) if speeds else None, _left_s(rows, step, total), _newest_checkpoint(out)
    )


def last_lines(log: Path, number: int) -> list[str]:
    """The last lines of a log; none where it isn't there yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-number:] if number else []


def _left_s(rows: list[StepRow], step: int | None, total: int | None) -> float | None:
    if step is None or total is None or len(rows) < 2 or rows[-1].step == rows[0].step:
        return None
    return (rows[-1].time - rows[0].time) / (rows[-1].step - rows[0].step) * (total - step)


def _newest_checkpoint(out: Path) -> int | None:
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in (out / "checkpoints").glob("step-*"))
    return max((int(match[1]) for match in names if match), default=None)


FOLDER = "metrics"
_NAME = re.compile(r"(\d{4,})\.jsonl")
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class StepRow:
    """One step of one attempt; `time` is Unix seconds, `values` the logged metrics."""

    step: int
    attempt: int
    time: float
    values: dict[str, float]


class MetricsWriter:
    """Appends to one attempt's file; a line is one `write`, so a kill can tear only the last one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)

    def append(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Write one line. Raises TypeError or ValueError for a value that is no number, OSError when the disk
        is full.
        """
        record: dict[str, int | float | str] = {"step": int(step), "time": round(time, 3)}
        record.update({str(key): _encode(value) for key, value in values.items() if key not in ("step", "time")})
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            error.filename = str(self.path)  # the system knows a number only
            raise
        if written != len(line):
            raise OSError(errno.ENOSPC, "cut short, is the disk full?", str(self.path))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def attempts(folder: str | Path) -> dict[int, Path]:
    """Attempt number -> metrics file of a run folder, ascending; empty when there is none."""
    files = (Path(folder) / FOLDER).glob("*.jsonl")
    found = {int(match.group(1)): file for file in files if (match := _NAME.fullmatch(file.name))}
    return dict(sorted(found.items()))


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The run's history as `{"step": int, name: float, ...}`, ascending in step, one row per step.

    Which attempt's row counts is said at the top of this module. Raises TrocarError for a damaged line that
    isn't the torn last one of its file.
    """
    return [{"step": row.step, **row.values} for row in read_rows(folder)]


def judged_loss(values: Mapping[str, Any]) -> str:
    """Which of the logged losses ln K is the measure of: `dino_loss` of a method that adds other losses to it, and
    `method_loss` where an anchor adds one.
    """
    return next((name for name in ("dino_loss", "method_loss") if name in values), "loss")


def read_rows(folder: str | Path) -> list[StepRow]:
    """`read_metrics` with the attempt and the time of each row."""
    kept: list[StepRow] = []
    first_newer = math.inf
    for attempt, file in reversed(attempts(folder).items()):
        rows = read_attempt(file, attempt)
        kept.extend(row for row in rows if row.step < first_newer)
        first_newer = min([first_newer, *(row.step for row in rows)])
    return sorted(kept, key=lambda row: row.step)


def read_attempt(file: Path, attempt: int) -> list[StepRow]:
    """The rows of one file, ascending in step; what follows the last newline was torn by a kill and is
    ignored.
    """
    rows: dict[int, StepRow] = {}
    *lines, _torn = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step, time = int(record.pop("step")), float(record.pop("time", 0.0))
            values = {key: _decode(value) for key, value in record.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise TrocarError(
                f"{file}: line {number} is damaged; delete that line to read the rest of the record"
            ) from None
        before = rows[step].values if step in rows else {}
        rows[step] = StepRow(step, attempt, time, {**before, **values})
    return [rows[step] for step in sorted(rows)]


def _encode(value: Any) -> int | float | str:
    if isinstance(value, str):
        raise TypeError(f"metrics are numbers, not text: {value!r}")
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def _decode(value: Any) -> float:
    return _WORDS[value] if isinstance(value, str) else float(value)
