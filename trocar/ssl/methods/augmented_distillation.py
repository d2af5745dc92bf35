"""Augmented distillation (LemonFM; Che et al., arXiv 2503.19740): DINO whose student also sees neighbour frames.

The teacher sees the two global views of the anchor and nothing else. With two neighbours the student sees 16 views, and
the loss has 2 x 15 = 30 terms. Left out are LemonFM's pixel noise (standard deviation 1/255, next to nothing) and the
stochastic depth of its teacher.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import override

from trocar.data.selection.neighbours import NeighbourSource
from trocar.data.views.recipe import MAX_FRAME, Jitter, ViewGroup, ViewRecipe
from trocar.ssl.engine.method import METHODS
from trocar.ssl.methods.dino import DinoConfig, DinoGlobalViews, DinoLocalViews, DinoViews

NO_HUE = Jitter(hue=0.0)


class AnchorGlobal(DinoGlobalViews):
    """DINO's, without a jitter of the hue."""

    jitter: Jitter = NO_HUE


class AnchorLocal(DinoLocalViews):
    """DINO's, without a jitter of the hue."""

    jitter: Jitter = NO_HUE


class NeighbourGlobal(ViewGroup):
    """Global views of each neighbour."""

    count: int = Field(default=1, ge=1, description="views of each neighbour")
    frame: Literal[0] = Field(default=0, description="not to be set: follows from neighbours.count")
    size: int = Field(default=224, ge=8)
    scale: tuple[float, float] = (0.4, 1.0)
    jitter: Jitter = NO_HUE


class NeighbourLocal(NeighbourGlobal):
    """Local views of each neighbour."""

    count: int = Field(default=2, ge=1, description="views of each neighbour")
    size: int = Field(default=96, ge=8)
    scale: tuple[float, float] = (0.05, 0.4)


class AugmentedViews(DinoViews):
    """DINO's multi-crop of the anchor, and views of its neighbours."""

    global_: AnchorGlobal = Field(default=AnchorGlobal(), alias="global")
    local: AnchorLocal | None = AnchorLocal()
    neighbour_global: NeighbourGlobal = Field(default=NeighbourGlobal(), description="global views of each neighbour")
    neighbour_local: NeighbourLocal | None = Field(
        default=NeighbourLocal(), description="local views of each neighbour; null: none"
    )


class DrawnNeighbours(NeighbourSource):
    """Which neighbours, and how many."""

    count: int = Field(default=2, ge=1, le=MAX_FRAME, description="neighbour frames of each sample")


@METHODS.register
class AugmentedDistillationConfig(DinoConfig):
    """Defaults are those of LemonFM's code, whose published command takes neighbours in time alone."""

    name: Literal["augmented_distillation"] = "augmented_distillation"  # type: ignore[assignment]
    views: AugmentedViews = Field(default=AugmentedViews(), description="the views of the anchor and of its neighbours")
    neighbours: DrawnNeighbours = Field(default=DrawnNeighbours(), description="which neighbours, and how many")

    @override
    def recipe(self) -> ViewRecipe:
        views = {"neighbour_global": self.views.neighbour_global, "neighbour_local": self.views.neighbour_local}
        count = self.neighbours.count
        theirs = {name: _of_each(group, count) for name, group in views.items() if group is not None}
        return ViewRecipe(groups={**super().recipe().groups, **theirs})

    @override
    def neighbour_source(self) -> NeighbourSource:
        return self.neighbours


def _of_each(group: ViewGroup, neighbours: int) -> ViewGroup:
    """The group's views of every neighbour: those of frame 1, then those of frame 2, ..."""
    frames = [frame for frame in range(1, neighbours + 1) for _ in range(group.count)]
    probabilities = {name: group.per_view(name) * neighbours for name in ("grey", "blur", "solarize")}
    return ViewGroup.model_validate(group.model_dump() | {"count": len(frames), "frame": frames} | probabilities)
