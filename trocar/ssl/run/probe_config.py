"""What is scored while a run trains, how often, and what follows from it; the cadence is a function of the
configuration alone, so that a resumed run looks at the steps that an undisturbed one looks at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from trocar.data.labelled_data import LabelledFolder
from trocar.data.views.recipe import ViewRecipe
from trocar.ssl.engine.optimizer import Duration, steps_in

SHARE = 0.03
"""Of the time of a run of more than LONG steps, for all probes together."""
LONG = 1000
POINTS, MOST_POINTS = 6, 50
"""Looks after the first one: at least so many in a short run, at most so many in a long one."""
PASSES = 3.0
"""A training step costs a forward pass and a backward pass of about two; a probe has the forward pass alone."""
LEAST_COST = 4.0
"""Steps that a look counts as at least: what follows the features takes its time however small the network is."""


class ProbeConfig(LabelledFolder):
    """A small labelled set that the network which would be exported is scored on while it trains.

    Fitted on training cases of the data set, scored on its validation cases; its test cases are not looked at.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$", description="what metrics and reports call it")
    task: str = Field(description="the task whose labels it is scored on, by its headline metric")
    protocol: Literal["knn", "linear", "dense"] = Field(
        default="knn",
        description="k nearest neighbours; a linear probe in closed form (ridge regression); for masks a linear probe "
        "on the map of stride 8 or 16",
    )
    every: Duration | Literal["auto"] = Field(
        default="auto",
        description="between two looks, such as `500 steps` or `5 %`; auto: as often as 3 % of the time allow in a run "
        "of over 1,000 steps, 6 times and more in a shorter one",
    )
    frames: int = Field(
        default=400,
        ge=4,
        description="labelled frames at the most, half of training cases and half of validation cases, spread evenly "
        "over cases and time",
    )
    cases: Literal["val"] = Field(
        default="val", description="which cases are scored: validation cases, which the leak guard holds out"
    )
    size: int | None = Field(
        default=None, ge=16, le=2048, description="pixels of the square input; null: those of the first group of views"
    )

    def cost(self, recipe: ViewRecipe, batch: int) -> float:
        """What a look costs, in steps of the run, by the pixels that pass through a network; teachers, which make
        steps dearer, are left out.
        """
        groups = recipe.groups.values()
        side = self.size or next(iter(groups)).size
        step = PASSES * batch * sum(group.count * group.size**2 for group in groups)
        return max(LEAST_COST, self.frames * side**2 / step)


@dataclass(frozen=True)
class Cadence:
    """When a probe looks: before the first step, after every `every` steps, and after the last of `total`."""

    every: int
    total: int
    cost: float

    def is_due(self, done: int) -> bool:
        """Whether it looks after `done` steps."""
        return done == self.total or done % self.every == 0

    @property
    def looks(self) -> int:
        """How many there are, the one at the first weights included."""
        return math.ceil(self.total / self.every) + 1

    @property
    def share(self) -> float:
        """Of the time of the run that they are expected to take, 0 to 1."""
        looking = self.looks * self.cost
        return looking / (self.total + looking)


def cadence(probe: ProbeConfig, recipe: ViewRecipe, batch: int, total: int, epoch_steps: int, probes: int) -> Cadence:
    """When one of so many `probes` looks. Two steps lie between looks at least."""
    cost = probe.cost(recipe, batch)
    if probe.every != "auto":
        return Cadence(max(2, steps_in(probe.every, epoch_steps, total)), total, cost)
    points = POINTS
    if total > LONG:
        points = min(MOST_POINTS, max(1, int(SHARE * total / (probes * cost)) - 1))
    return Cadence(max(2, math.ceil(total / points)), total, cost)


def check_probes(probes: Sequence[ProbeConfig], keep: str, keep_by: str | None, patience: int | None) -> None:
    """Raises ValueError for probes that do not fit together, or a choice without a probe that makes it."""
    names = [probe.name for probe in probes]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"probe: two are called {twice[0]!r}; give each a name of its own")
    listed = ", ".join(names) or "none"
    if keep_by is not None and keep_by not in names:
        raise ValueError(f"keep_by: no probe is called {keep_by!r}; there are: {listed}")
    if keep == "best" and keep_by is None and len(names) != 1:
        raise ValueError(f"keep: best needs keep_by, the name of the probe that chooses; there are: {listed}")
    if keep != "best" and (patience is not None or keep_by is not None):
        which = "patience" if patience is not None else "keep_by"
        raise ValueError(f"{which} is of use with keep: best alone")
