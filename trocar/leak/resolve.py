"""Resolve a composition together with what its `leak.against` names; reads labelled data only where it names any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trocar.data.catalog.catalog import Catalog
from trocar.data.leak.guard import FoundLeaks, find_leaks
from trocar.data.leak.held_out import HeldOut
from trocar.data.selection.composition import Composition
from trocar.data.selection.selection import Selection

Say = Callable[[str], None]


class LeakSearch:
    """What compositions must keep out, and what their pools hold of it; each read and searched for once.

    For the planning of many compositions: it remembers labelled data as they were when they were first asked for.
    """

    def __init__(self, say: Say = lambda line: None) -> None:
        self.say = say
        self._held_out: dict[str, HeldOut] = {}
        self._leaks: dict[tuple[str, int, tuple[int, ...]], FoundLeaks] = {}

    def held_out(self, composition: Composition) -> HeldOut | None:
        """What must stay out of the pool; None where the composition names nothing.

        Raises ConfigError for an entry that means nothing.
        """
        guard = composition.leak
        if not guard.against:
            return None
        key = guard.model_dump_json(include={"against"})
        if key not in self._held_out:
            from trocar.leak.against import held_out  # pandas and av, which no loader worker should pay for

            self._held_out[key] = held_out(guard.against, self.say)
        return self._held_out[key]

    def leaks(self, catalog: Catalog, held_out: HeldOut, videos: Sequence[int]) -> FoundLeaks:
        """`find_leaks`; `held_out` is one that this search has read."""
        key = (catalog.fingerprint, id(held_out), tuple(videos))
        if key not in self._leaks:
            self._leaks[key] = find_leaks(catalog, held_out, videos)
        return self._leaks[key]


def resolve(
    composition: Composition, catalog: Catalog, samples: int | None = None, search: LeakSearch | None = None
) -> Selection:
    """`Composition.resolve` with the held-out cases; raises what it raises."""
    search = search or LeakSearch()
    return composition.resolve(catalog, samples, search.held_out(composition), search.leaks)
