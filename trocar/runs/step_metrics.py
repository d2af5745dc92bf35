"""metrics/<attempt>.jsonl: the record of a run, one JSON object a line, one file per attempt.

A line is `{"step": 10, "time": 1767225600.0, "loss": 9.01, ...}`: `time` is Unix seconds and is left out of
`read_metrics`, because two runs that are equal in everything else differ in it. Finite numbers are written
with `repr`, so they come back bit for bit; NaN and the infinities, which JSON has no word for, are the
strings "NaN", "Infinity" and "-Infinity", and come back as floats.

Attempts form a line of descent. An attempt resumes from a checkpoint, so what an older attempt logged from
the new attempt's *first logged step* on is not this run's history any more:

    a row (attempt b, step n) counts  if and only if  every attempt a > b has no rows, or its first row's step
    is > n

Rows before that first step stay; an attempt that died before its first row hides nothing. Several lines for
one step within an attempt are one row (a later line adds keys, or replaces values).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trocar.errors import TrocarError

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
    """Which of the logged losses ln K is the measure of: `dino_loss` of a method that adds other losses to it."""
    return "dino_loss" if "dino_loss" in values else "loss"


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
