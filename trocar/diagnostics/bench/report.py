"""Trials of several contenders -> medians, spreads, ratios by pairs; as a table, JSON and a plot."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from trocar.core.files import write_json_atomic
from trocar.core.resources import usable_cores
from trocar.errors import TrocarError


@dataclass(frozen=True)
class Trial:
    """One contender in one repeat: `items` done in `seconds` of wall time, and whatever else was measured."""

    contender: str
    repeat: int
    items: float
    seconds: float
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds


@dataclass(frozen=True)
class BenchComparison:
    """All trials of a bench. Repeats are interleaved: repeat r of every contender ran side by side in time."""

    title: str
    unit: str
    reference: str
    trials: tuple[Trial, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def contenders(self) -> list[str]:
        """Names in order of first appearance."""
        return list(dict.fromkeys(trial.contender for trial in self.trials))

    def of(self, contender: str) -> dict[int, Trial]:
        """Trials of one contender by repeat."""
        return {trial.repeat: trial for trial in self.trials if trial.contender == contender}

    def ratios(self, contender: str, reference: str) -> list[float]:
        """Rate of one contender by that of another, pair by pair."""
        ours, theirs = self.of(contender), self.of(reference)
        return [ours[r].rate / theirs[r].rate for r in sorted(ours.keys() & theirs.keys())]

    def table(self) -> Table:
        """One row per contender: median rate, range, median of the paired ratios and their range."""
        table = Table(title=self.title, caption=_caption(self))
        for name in ("", self.unit, "range", f"x {self.reference}", "range of pairs"):
            table.add_column(name, justify="left" if not name else "right")
        extras = list(dict.fromkeys(key for trial in self.trials for key in trial.extra))
        for key in extras:
            table.add_column(key, justify="right")
        for name in self.contenders:
            trials = list(self.of(name).values())
            rates, ratios = [t.rate for t in trials], self.ratios(name, self.reference)
            more = [_median([t.extra[key] for t in trials if key in t.extra]) for key in extras]
            table.add_row(name, *_spread(rates, 1), *_spread(ratios, 2), *more)
        return table

    def as_json(self) -> dict[str, Any]:
        """Every figure with its pairs."""
        return {
            "title": self.title,
            "unit": self.unit,
            "reference": self.reference,
            "machine": machine(),
            "settings": self.settings,
            "trials": [
                {"contender": t.contender, "repeat": t.repeat, "items": t.items, "seconds": t.seconds, **t.extra}
                for t in self.trials
            ],
            "summary": {
                name: {
                    "median_rate": statistics.median(t.rate for t in self.of(name).values()),
                    "ratios": self.ratios(name, self.reference),
                    "median_ratio": statistics.median(self.ratios(name, self.reference) or [float("nan")]),
                }
                for name in self.contenders
            },
        }

    def save(self, path: Path) -> None:
        """Write the JSON. Raises TrocarError where it can't be written."""
        try:
            write_json_atomic(path, self.as_json())
        except OSError as error:
            raise TrocarError(f"{path}: {error.strerror}; give --json a path that can be written") from None

    def plot(self, path: Path) -> None:
        """A bar per contender with a dot per trial, as PNG or SVG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 0.5 * len(self.contenders) + 1.2), layout="constrained")
        axes = figure.subplots()
        for row, name in enumerate(self.contenders):
            rates = [t.rate for t in self.of(name).values()]
            ours = name.startswith("trocar")
            axes.barh(row, statistics.median(rates), color="#2a6f97" if ours else "#b8c4cc")
            axes.plot(rates, [row] * len(rates), "k.", markersize=4)
        axes.set_yticks(range(len(self.contenders)), self.contenders)
        axes.invert_yaxis()
        axes.set_xlabel(self.unit)
        axes.set_title(self.title, fontsize=10)
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise TrocarError(f"{path}: {error}; give --plot a .png or .svg that can be written") from None


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return {
        "system": platform.platform(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": json.dumps([round(x, 2) for x in os.getloadavg()]),
    }


def _caption(comparison: BenchComparison) -> str:
    repeats = max((len(comparison.of(name)) for name in comparison.contenders), default=0)
    return f"medians of {repeats} interleaved repeats; ratios are medians of pairs"


def _spread(values: Sequence[float], digits: int) -> tuple[str, str]:
    if not values:
        return "-", "-"
    return f"{statistics.median(values):.{digits}f}", f"{min(values):.{digits}f} - {max(values):.{digits}f}"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else "-"
