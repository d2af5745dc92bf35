"""A grid of compositions: hospital x procedure x number of cases x mixture weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from trocar.core.config import Config
from trocar.data.selection.composition import Composition, VideoFilter

ANY = "all"


class GridConfig(Config):
    """Every combination of the given values is an arm, called after its values: `north-cholecystectomy-20`.

    A cell that the catalog can't fill is an error, or with `base.on_short: skip` left out and listed.
    """

    source: list[str] = Field(
        default=[], description="an axis: names of data sets, several joined by `+`, or `all` for no restriction"
    )
    hospital: list[str] = Field(
        default=[], description="an axis: names of hospitals, several joined by `+`, or `all` for no restriction"
    )
    procedure: list[str] = Field(
        default=[], description="an axis: names of procedures, several joined by `+`, or `all` for no restriction"
    )
    cases: list[int] = Field(default=[], description="an axis: numbers of cases")
    weights: list[str] = Field(default=[], description="an axis: mixture weights, such as proportional and uniform")
    base: Composition = Field(
        default=Composition(), description="the rest of the composition; its `include` holds for every cell"
    )
    skip: list[str] = Field(default=[], description="cells that are left out, by name")

    def cells(self) -> dict[str, dict[str, Any]]:
        """Name -> composition as plain values. Raises ValueError for a `skip` that is no cell, and for an axis of the
        grid that `base` sets as well.
        """
        self._check_base()
        found = dict(self._all())
        strange = sorted(set(self.skip) - set(found))
        if strange:
            raise ValueError(f"grid.skip: no cell {strange[0]!r}; cells: {', '.join(found)}")
        return {name: cell for name, cell in found.items() if name not in self.skip}

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        axes = {
            name: values
            for name in ("source", "hospital", "procedure", "cases", "weights")
            if (values := getattr(self, name))
        }
        if not axes:
            raise ValueError("the grid has no axis: give hospital, procedure, source, cases or weights")
        for point in itertools.product(*axes.values()):
            cell = dict(zip(axes, point, strict=True))
            yield "-".join(map(str, point)), self._composition(cell)

    def _composition(self, cell: dict[str, Any]) -> dict[str, Any]:
        tree = self.base.model_dump(mode="json")
        wanted = {
            name: str(cell[name]).split("+")
            for name in ("source", "hospital", "procedure")
            if cell.get(name, ANY) != ANY
        }
        if wanted:
            tree["include"] = [match | wanted for match in tree["include"]] or [wanted]
        if "cases" in cell:
            tree["sample"]["cases"] = cell["cases"]
        if "weights" in cell:
            tree["weights"] = cell["weights"]
        return tree

    def _check_base(self) -> None:
        for axis in ("source", "hospital", "procedure"):
            if getattr(self, axis) and any(_sets(match, axis) for match in self.base.include):
                raise ValueError(f"grid.base.include sets {axis}, which is an axis of the grid; keep one")
        if self.cases and self.base.sample.cases is not None:
            raise ValueError("grid.base.sample.cases and grid.cases: keep one")


def _sets(match: VideoFilter, axis: str) -> bool:
    return getattr(match, axis) is not None
