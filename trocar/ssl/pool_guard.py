"""What keeps test cases out of the data that a run trains on, and writes down what its weights have seen.

`trocar.leakage.guard` does, and is handed in: training does not know how copies are found, nor what is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trocar.backbones.source import Record, WeightHistory
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourTable
from trocar.data.selection.selection import Selection
from trocar.privacy.private_data import Private


@dataclass(frozen=True)
class TrainingData:
    """All that reaches the weights of a run: its frames, and through other networks theirs.

    `init`, `teachers`: names as for `load_backbone`; `index`: the neighbour index, None without one. `chosen`: whether
    the labels of a probe chose these weights.
    """

    run: Path
    composition: Composition
    catalog: Catalog
    selection: Selection
    init: str
    teachers: Sequence[str] = ()
    index: NeighbourTable | None = None
    chosen: bool = False


class PoolGuard(WeightHistory, Protocol):
    """Resolves compositions without held-out cases, and knows the history of what is trained on them."""

    def resolve(self, composition: Composition, catalog: Catalog, samples: int | None = None) -> Selection:
        """`Composition.resolve` without the held-out cases; raises ConfigError too for a pool that is refused."""
        ...

    def private(self, composition: Composition) -> Private:
        """What of the held-out data nothing of the run may show."""
        ...

    def seen(self, data: TrainingData) -> Record:
        """What the trained weights will have seen, for `config.json` of the exported backbone."""
        ...

    def report(self, data: TrainingData) -> dict[str, Any]:
        """What the guard compared, found and did, as JSON values for the run folder."""
        ...
