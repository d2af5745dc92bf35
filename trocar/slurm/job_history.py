"""The lives of a job: when it began and ended, over all requeues. `FOLDER/lives/<job>.jsonl`, written by rank 0.

A life that was killed has no end here; then the last sign of life of its run folder stands for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trocar.runs.lease import NAME as LEASE


@dataclass(frozen=True)
class JobSummary:
    """Of a job so far: seconds from submission to its first start and between its lives, and seconds it ran."""

    job: str
    requeues: int
    waiting_s: float
    running_s: float


def begin(folder: Path, job: str, restart: int, out: Path | None) -> None:
    """Note that a life begins; `out` is where the life before may have left its last sign."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    _append(folder, job, {"event": "start", "restart": restart, "nodes": nodes, "seen": _last_sign(out)})


def end(folder: Path, job: str, code: int | None) -> None:
    """Note that a life ends with an exit code, or None for an exception that nobody expected."""
    _append(folder, job, {"event": "end", "code": code})


def read(folder: Path, job: str) -> list[dict[str, Any]]:
    """All events of a job; a line that a kill tore is left out."""
    try:
        lines = _path(folder, job).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def exit_code(folder: Path, job: str) -> int | None:
    """The exit code of a job whose last life has ended by itself, else None."""
    events = read(folder, job)
    return events[-1].get("code") if events and events[-1]["event"] == "end" else None


def summarise(job: str, submitted: float, events: list[dict[str, Any]], now: float | None = None) -> JobSummary:
    """Add up waiting and running until `now` (Unix seconds), the last event without it."""
    waiting = running = 0.0
    since, alive = submitted, False
    for event in events:
        if event["event"] == "start":
            if alive:  # the life before was killed
                died = min(max(event["seen"] or event["time"], since), event["time"])
                running, since = running + died - since, died
            waiting += max(0.0, event["time"] - since)
        else:
            running += event["time"] - since
        since, alive = event["time"], event["event"] == "start"
    if alive and now is not None:
        running += now - since
    return JobSummary(job, max(0, sum(e["event"] == "start" for e in events) - 1), round(waiting, 1), round(running, 1))


def for_record(summary: JobSummary) -> Mapping[str, Any]:
    """As run.json holds it."""
    return asdict(summary)


def _append(folder: Path, job: str, event: dict[str, Any]) -> None:
    path = _path(folder, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({**event, "time": round(time.time(), 3), "pid": os.getpid()}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _path(folder: Path, job: str) -> Path:
    return folder / "lives" / f"{job}.jsonl"


def _last_sign(out: Path | None) -> float | None:
    """When the lease of a run folder last beat."""
    try:
        return round((out / LEASE).stat().st_mtime, 3) if out is not None else None
    except OSError:
        return None
