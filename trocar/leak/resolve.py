"""Resolve a composition together with what its `leak.against` names; reads labelled data only where it names any."""

from __future__ import annotations

from collections.abc import Callable

from trocar.data.catalog import Catalog
from trocar.data.composition import Composition
from trocar.data.leak.held_out import HeldOut
from trocar.data.selection import Selection

Say = Callable[[str], None]


def held_out_of(composition: Composition, say: Say = lambda line: None) -> HeldOut | None:
    """What must stay out of the pool; None where the composition names nothing.

    Raises ConfigError for an entry that means nothing.
    """
    if not composition.leak.against:
        return None
    from trocar.leak.against import held_out  # pandas and av, which no loader worker should pay for

    return held_out(composition.leak.against, say)


def resolve(
    composition: Composition, catalog: Catalog, samples: int | None = None, say: Say = lambda line: None
) -> Selection:
    """`Composition.resolve` with the held-out cases; raises what it raises."""
    return composition.resolve(catalog, samples, held_out_of(composition, say))
