"""Measure a published number again: the same data, split and metric, and how far it is from what was published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trocar.core.config import Config, find_preset, load, preset_names
from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.downstream.datasets.base import DATASETS
from trocar.downstream.evaluation.evaluate import evaluate
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults, ResultRow
from trocar.downstream.labels import LeakChecks
from trocar.downstream.metrics.registry import named_metrics
from trocar.downstream.tasks import get_task
from trocar.errors import ConfigError, TrocarError, nearest

FOLDER = "reproduce/"
Verdict = Literal["within", "above", "below", "incomplete"]


class PublishedNumber(Config):
    """A published number: a metric on a task."""

    task: str = Field(description="the task it was measured on")
    metric: str = Field(description="the metric")
    value: float = Field(ge=0, le=1, description="the number, as a share of 1")
    tolerance: float = Field(gt=0, le=1, description="how far a measurement may be away, as a share of 1")
    why: str = Field(description="where the tolerance comes from")
    source: str = Field(description="the publication")
    runs: int | None = Field(
        default=None, ge=1, description="number of trainings behind the value; null: the publication does not say"
    )
    secondary: bool = Field(
        default=False, description="the number was read in a text by others, not in its own publication"
    )


class PublishedExperiment(Config):
    """An evaluation that measures a published number again."""

    about: str = Field(description="what was published")
    preset: str = Field(description="the evaluation that is run, with one backbone, one task and one protocol")
    overrides: dict[str, Any] = Field(default={}, description="values of its fields in their place")
    target: PublishedNumber = Field(description="the published number")


@dataclass(frozen=True)
class Reproduction:
    """What was measured beside what was published. `values` has one number per run; `interval` is the 95 % bootstrap
    interval over cases of their mean, None for fewer than three cases.
    """

    name: str
    target: PublishedNumber
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    incomplete: str | None

    @property
    def measured(self) -> float:
        """Mean over runs."""
        return float(np.mean(self.values))

    @property
    def difference(self) -> float:
        """Measured minus published."""
        return self.measured - self.target.value

    @property
    def verdict(self) -> Verdict:
        """`incomplete` where frames of the official test set are missing: then nothing is compared."""
        if self.incomplete is not None:
            return "incomplete"
        if abs(self.difference) <= self.target.tolerance + 1e-12:
            return "within"
        return "above" if self.difference > 0 else "below"

    def to_json(self) -> dict[str, Any]:
        """What reproduce.json holds."""
        return {
            "name": self.name,
            "published": self.target.model_dump(),
            "measured": self.measured,
            "values": list(self.values),
            "interval": self.interval,
            "difference": self.difference,
            "incomplete": self.incomplete,
            "verdict": self.verdict,
        }

    def lines(self) -> list[str]:
        """For the terminal."""
        target = self.target
        runs = f", {target.runs} runs" if target.runs is not None else ""
        secondary = ", from secondary sources" if target.secondary else ""
        spread = f" ± {np.std(self.values, ddof=1):.4f}" if len(self.values) > 1 else ""
        interval = (
            f", 95 % interval over cases [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        )
        verdict = self.incomplete if self.incomplete is not None else self.verdict
        return [
            f"{self.name}: {target.metric} of {target.task}",
            f"published  {target.value:.4f} ({target.source}{runs}{secondary})",
            f"measured   {self.measured:.4f}{spread} ({len(self.values)} runs{interval})",
            f"difference {self.difference:+.4f}, tolerance {target.tolerance:.4f} ({target.why}): {verdict}",
        ]


def names() -> list[str]:
    """What can be reproduced."""
    return [name.removeprefix(FOLDER) for name in preset_names() if name.startswith(FOLDER)]


def read(name: str) -> PublishedExperiment:
    """A published number by name, or from a file of one's own. Raises ConfigError with the nearest name."""
    if not Path(name).is_file() and name not in names():
        known = names()
        raise ConfigError(f"nothing called {name!r} to reproduce{nearest(name, known)}; there is: {', '.join(known)}")
    return load(PublishedExperiment, name if Path(name).is_file() else find_preset(FOLDER + name))


def reproduce(
    name: str,
    data: Path,
    out: Path,
    judge: LeakChecks,
    overrides: list[str] | None = None,
    say: Say = lambda _: None,
) -> Reproduction:
    """Run the experiment on `data`; write what `evaluate` writes and reproduce.json to `out`; `judge` as there.

    `overrides` are `key=value` of the evaluation that do not change the number, such as `device=cpu`. Raises
    ConfigError for an unknown name, for data that are not there and for a metric the task does not have.
    """
    experiment = read(name)
    target = experiment.target
    _check(name, target)
    given = {**experiment.overrides, "data": str(data), "out": str(out)}
    changes = [f"{key}={json.dumps(value)}" for key, value in given.items()] + (overrides or [])
    config = load(EvaluateConfig, experiment.preset, changes)
    if config.ranks != 1:
        raise ConfigError(f"ranks={config.ranks}: an experiment is reproduced by one process; use ranks=1")
    _check_data(name, data, config.layout)
    results = evaluate(config, judge, say)
    row = _row(results, target.task)
    values, interval = measure(results, row, target.metric)
    incomplete = results.tasks[target.task]["incomplete"]
    found = Reproduction(Path(name).stem, target, values, interval, incomplete)
    write_atomic(out / "reproduce.json", json.dumps(found.to_json(), indent=1) + "\n")
    return found


def _check(name: str, target: PublishedNumber) -> None:
    get_task(target.task)
    known = named_metrics(target.task)
    if target.metric not in known:
        raise ConfigError(
            f"{name}: task {target.task!r} has no metric {target.metric!r}{nearest(target.metric, known)}; "
            f"metrics: {', '.join(known)}"
        )


def _check_data(name: str, data: Path, layout: str | None) -> None:
    """Raises ConfigError where the folder is another data set than the number was published for."""
    if layout is None or not data.is_dir() or DATASETS.get(layout).matches(data):
        return
    others = [other for other, adapter in DATASETS.items() if adapter.matches(data)]
    seen = f"it looks like {' or '.join(others)}" if others else "it has no layout that is known"
    raise ConfigError(
        f"{data} is not what {name} is measured on: {seen}; needed is {layout}: {DATASETS.get(layout).expects}"
    )


def _row(results: EvaluationResults, task: str) -> ResultRow:
    """Of the backbone that was asked for; baselines come behind it."""
    return next(row for row in results.rows if row.task == task and row.kind in ("backbone", "random"))


def measure(
    results: EvaluationResults, row: ResultRow, metric: str
) -> tuple[tuple[float, ...], tuple[float, float] | None]:
    """Value of every run, and the interval of their mean: of any metric of the task, also of one that no table shows.

    Raises TrocarError for one that is not defined on the predictions.
    """
    scores = results.scores.contenders[row.task, row.arm, row.protocol]
    if metric not in scores.names:
        raise TrocarError(
            f"{metric} is not defined for these labels and predictions (without background: where no class is declared "
            f"to be it); defined are: {', '.join(scores.names)}"
        )
    return tuple(scores.values(metric)), scores.interval(metric)
