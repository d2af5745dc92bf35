"""Checks in order of value: each in a try block and under a time limit, its result on disk before the next one begins.

A check that hangs inside a driver can't be stopped from within its process. The watchdog writes down that it hung and
calls `hung`, which ends or replaces the process; a report that has outcomes already is continued behind them.

What the checks share: the device, a folder, a catalog of textured frames, and loaders of it.
"""

from __future__ import annotations

import faulthandler
import json
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from trocar.core.files import write_json_atomic
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewPlan, ViewRecipe
from trocar.diagnostics.backend_parity import RECIPE, write_frames
from trocar.diagnostics.bench.loader import DINO, MEAN, STD

FORMAT = 1
State = Literal["passed", "failed", "measured", "skipped", "error", "hung"]
MARKS: dict[State, str] = {
    "passed": "ok      ",
    "measured": "measured",
    "skipped": "skipped ",
    "failed": "FAILED  ",
    "error": "ERROR   ",
    "hung": "HUNG    ",
}
BAD: tuple[State, ...] = ("failed", "error", "hung")
TINY_SLOWER = 10
"""Limits are for a GPU that nobody else uses; on a CPU, perhaps beside other work, they are this much longer."""


class SkippedError(Exception):
    """A check can't be run on this machine; the message says why."""


@dataclass(frozen=True)
class CheckFindings:
    """What a check found: `passed` is None for one that measures and has no bar. `values` are for the report."""

    passed: bool | None
    words: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GpuCheck:
    """One check: `run` raises `SkippedError` where it can't be run; after `limit_s` seconds it counts as hung."""

    name: str
    limit_s: float
    run: Callable[[Subject], CheckFindings]


@dataclass(frozen=True)
class CheckOutcome:
    """What became of a check, in `seconds`."""

    name: str
    state: State
    words: str
    seconds: float
    values: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """For people."""
        return f"{MARKS[self.state]} {self.name:14}{self.words}  ({self.seconds:.1f} s)"


def run_checks(
    checks: Sequence[GpuCheck],
    subject: Subject,
    say: Say,
    hung: Callable[[], None],
    report: Path | None = None,
    budget_s: float = float("inf"),
) -> list[CheckOutcome]:
    """Run the checks that `report` has no outcome of, and return the outcomes of all.

    Those that do not fit into what is left of `budget_s` seconds, by their limits, are skipped.
    """
    outcomes = read_report(report) if report is not None and report.exists() else []
    done = {outcome.name for outcome in outcomes}
    for check in (check for check in checks if check.name not in done):
        left = budget_s - sum(outcome.seconds for outcome in outcomes)
        if check.limit_s > left:
            outcome = CheckOutcome(
                check.name, "skipped", f"its limit is {check.limit_s:.0f} s, {left:.0f} s are left", 0.0
            )
        else:
            outcome = _run(check, subject, partial(_write, report, subject, *outcomes), hung)
        outcomes.append(outcome)
        _write(report, subject, *outcomes)
        say(outcome.line())
    return outcomes


def read_report(path: Path) -> list[CheckOutcome]:
    """The outcomes in a report."""
    return [CheckOutcome(**item) for item in json.loads(path.read_text(encoding="utf-8"))["checks"]]


def _run(
    check: GpuCheck, subject: Subject, write: Callable[[CheckOutcome], None], hung: Callable[[], None]
) -> CheckOutcome:
    started = time.perf_counter()

    limit_s = check.limit_s * (TINY_SLOWER if subject.tiny else 1)

    def give_up() -> None:
        faulthandler.dump_traceback(file=sys.stderr)
        write(CheckOutcome(check.name, "hung", f"no end after {limit_s:.0f} s", time.perf_counter() - started))
        hung()

    watchdog = threading.Timer(limit_s, give_up)
    watchdog.daemon = True
    watchdog.start()
    values: dict[str, Any] = {}
    try:
        found = check.run(subject)
        state: State = "measured" if found.passed is None else "passed" if found.passed else "failed"
        words, values = found.words, found.values
    except SkippedError as reason:
        state, words = "skipped", str(reason)
    except Exception as error:  # whatever it is, the checks behind this one still say something
        state, words = "error", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        values = {"traceback": traceback.format_exc()}
    finally:
        watchdog.cancel()
    return CheckOutcome(check.name, state, words, round(time.perf_counter() - started, 2), values)


def _write(report: Path | None, subject: Subject, *outcomes: CheckOutcome) -> None:
    if report is not None:
        tree = {"format": FORMAT, "device": str(subject.device), "tiny": subject.tiny}
        write_json_atomic(report, {**tree, "checks": [_plain(asdict(outcome)) for outcome in outcomes]})


def _plain(value: Any) -> Any:
    """The same for JSON: numbers that it can't hold become words."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """The device under examination. On a CPU everything is `tiny`: the same code, in seconds."""

    device: torch.device
    folder: Path

    @property
    def tiny(self) -> bool:
        """Whether sizes are for a CPU."""
        return self.device.type == "cpu"

    @cached_property
    def catalog(self) -> Catalog:
        """2,048 frames of 854 x 480 and about 75 KB, of 60 pictures; on a CPU 64 small ones."""
        if (self.folder / "shards").exists():
            return Catalog.open(self.folder)
        if self.tiny:
            return write_frames(self.folder, count=8, rows=64)
        return write_frames(self.folder, count=60, rows=2048, width=854, height=480, quality=45)

    @property
    def recipe(self) -> ViewRecipe:
        """DINO's views; on a CPU small ones."""
        return RECIPE if self.tiny else DINO

    def loader(
        self,
        backend: Backend,
        batch: int,
        *,
        device: torch.device | None = None,
        workers: int = 0,
        recipe: ViewRecipe | None = None,
        hw_decoder_load: float = 0.0,
    ) -> Loader:
        """A loader of the whole catalog on `device`, default this one's."""
        selection = Composition(curate="none").resolve(self.catalog)
        plan, views = Plan(selection, batch, 0), ViewPlan(recipe or self.recipe, 0)
        where = device or self.device
        return Loader(
            plan,
            views,
            Reader(self.catalog),
            MEAN,
            STD,
            workers=workers,
            backend=backend,
            device=where,
            hw_decoder_load=hw_decoder_load,
        )
