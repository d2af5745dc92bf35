"""A loader's stream of tiny batches, as something that two runs can be compared by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.batch import Batch
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe

RECIPE = ViewRecipe(groups={"global": ViewGroup(count=2, size=24, scale=(0.4, 1.0))})
STEPS = 6


def make_loader(catalog: Catalog, known_bad: frozenset[int] = frozenset(), **options: Any) -> Loader:
    """Batches of 8, in the calling thread unless `options` say otherwise."""
    plan = Plan(Composition(curate="none").resolve(catalog), 8, seed=1)
    options = {"workers": 0} | options
    return Loader(plan, ViewPlan(RECIPE, 1), Reader(catalog, known_bad), (0.5,) * 3, (0.2,) * 3, **options)


def frames_of(batches: Iterable[Batch]) -> dict[tuple[int, int], tuple[int, str]]:
    """(step, place in the batch) -> row and sha256 of its views."""
    return {
        (batch.step, slot): (int(row), hashlib.sha256(batch.views["global"][slot].numpy().tobytes()).hexdigest())
        for batch in batches
        for slot, row in enumerate(batch.rows)
    }


def stream(loader: Loader) -> dict[tuple[int, int], tuple[int, str]]:
    """`frames_of` the first steps."""
    return frames_of(loader.iterate(0, STEPS))
