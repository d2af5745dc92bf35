"""What a task is made of, and the registries of tasks and of the metrics that are added to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trocar.core.registry import Registry
from trocar.downstream.labels import Kind, LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import AnyMetric, Floats, Named, Outcome
from trocar.errors import ConfigError


@dataclass(frozen=True)
class Task:
    """A thing to predict from a frame: how it is labelled, and how predictions of it are scored.

    `kind` says whether a frame has one label (multiclass), any number of them (multilabel), or one for every pixel
    (mask). `headline` is the metric that model selection uses; tables lead with it unless `in_tables` says otherwise,
    and `shown` are the others in tables. `own_metrics` are all metrics that its file names; those that are not shown
    are in metrics.json. `per_class` is the score of every class, [K], with its name.
    """

    name: str
    kind: Kind
    headline: str
    shown: tuple[str, ...]
    per_class: tuple[str, Callable[[Any], Floats]]
    own_metrics: Mapping[str, Named] = field(default_factory=dict, compare=False)

    @property
    def masks(self) -> bool:
        """Whether its labels and predictions are masks: one class for every pixel."""
        return self.kind == "mask"

    @property
    def named(self) -> Mapping[str, Named]:
        """All metrics by name: its own, then those that were added with `METRICS`."""
        return {**self.own_metrics, **{added.metric: added.named for added in _added_to(self)}}

    @property
    def metrics(self) -> Mapping[str, AnyMetric]:
        """The metrics in tables, the headline first."""
        return {name: self.named[name].metric for name in (self.headline, *self.shown)}

    def in_tables(self, space: LabelSpace) -> tuple[str, ...]:
        """Names of the metrics in tables of a data set with these labels, the one that they lead with first."""
        return self.shown_where(space.background)

    def shown_where(self, background: int | None) -> tuple[str, ...]:
        """The same of labels whose background is the class of this index; None: none is declared."""
        return (self.headline, *self.shown)

    def space(self, classes: tuple[str, ...], *, soft: bool = False) -> LabelSpace:
        """The labels of a data set that has these classes; see `LabelSpace`."""
        return LabelSpace(self.name, self.kind, classes, soft=soft)

    def targets(self, data: LabelledFrames) -> Floats:
        """Labels of all frames as they stand in the table: [N] of class indices, [N, K] of values; -1 is unlabelled. Of
        masks, which are read when they are needed, 0 for a frame with one.

        Raises ConfigError where the data set labels the task in another way.
        """
        space = data.space(self.name)
        if space.kind != self.kind:
            raise ConfigError(f"{data.root}: labels of {self.name!r} are {space.kind}, and the task is {self.kind}")
        if self.masks:
            return space.known(data.frames).astype(np.float64) - 1
        values: Floats = data.frames[list(space.columns)].to_numpy()
        return values[:, 0] if space.kind == "multiclass" else values

    def score(self, outcome: Outcome) -> float:
        """The headline."""
        return self.named[self.headline].metric(outcome, None)


@dataclass(frozen=True)
class SegmentationTask(Task):
    """Scored on masks: its metrics take confusion matrices of images, not labels of frames.

    `shown_with_background`: what tables show where the data set declares a background, the metric that they lead with
    first; without it they show the same as elsewhere.
    """

    shown_with_background: tuple[str, ...] = ()

    def shown_where(self, background: int | None) -> tuple[str, ...]:
        """As of every task, or `shown_with_background`."""
        without = super().shown_where(background)
        return without if background is None else self.shown_with_background or without


TASKS: Registry[Task] = Registry(
    "tasks",
    "task",
    package="trocar.downstream.tasks",
    accepts=lambda thing: isinstance(thing, Task),
    expected="a Task",
)
"""Every task by name."""


@dataclass(frozen=True)
class AddedMetric:
    """A metric called `metric` that is added to the task called `task`; the registry knows it as `task/metric`."""

    task: str
    metric: str
    named: Named

    @property
    def name(self) -> str:
        """What entry points call it."""
        return f"{self.task}/{self.metric}"


METRICS: Registry[AddedMetric] = Registry(
    "metrics",
    "metric",
    accepts=lambda thing: isinstance(thing, AddedMetric),
    expected="an AddedMetric",
)
"""The metrics that are added to tasks from outside their files."""


def _added_to(task: Task) -> list[AddedMetric]:
    """Raises ConfigError for a name that the task has already."""
    found = [added for added in METRICS.values() if added.task == task.name]
    for added in found:
        if added.metric in task.own_metrics:
            raise ConfigError(
                f"two metrics of {task.name} are called {added.metric!r}: {TASKS.module_of(task.name)} and "
                f"{METRICS.module_of(added.name)}; rename one, or remove its plugin"
            )
    return found
