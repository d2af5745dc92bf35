"""What a neighbour index has seen: its backbone chose which frames count as alike."""

from __future__ import annotations

from trocar.backbones.exposure import KEY, Exposure, Part
from trocar.data.order.neighbour_table import NeighbourTable
from trocar.errors import TrocarError

ROLE = "neighbour index"


def exposure_of_index(table: NeighbourTable) -> Exposure:
    """The history of the index's backbone, as the index recorded it when it was built.

    Raises TrocarError for a record that cannot be understood.
    """
    if KEY not in table.about:
        return Exposure((Part(ROLE, str(table.about.get("backbone", "unnamed")), known=False),))
    try:
        return Exposure.from_json(table.about[KEY]).as_role(ROLE)
    except (TypeError, KeyError, ValueError) as error:
        raise TrocarError(f"the neighbour index's record of its backbone cannot be understood: {error!r}") from None
