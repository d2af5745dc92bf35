"""How far a run is, read from its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trocar.errors import TrocarError
from trocar.runs.run_folder import read_record
from trocar.runs.step_metrics import StepRow, attempts, read_attempt

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
