"""Published weights that Trocar loads strictly, by name. Adding a family: one file here, its name below, one test."""

from __future__ import annotations

import importlib
from functools import lru_cache

from trocar.backbones.published.family import Published

FAMILIES = (
    "surgenet",
    "surgenetdino",
    "lemonfm",
    "selfsupsurg",
    "endovit",
    "surgvlp",
    "dino",
    "dinov2",
    "mocov3",
)


@lru_cache(maxsize=1)
def entries() -> dict[str, Published]:
    """Every entry by name, in the order of `FAMILIES`."""
    found: dict[str, Published] = {}
    for name in FAMILIES:
        module = importlib.import_module(f"{__name__}.{name}")
        found |= {entry.name: entry for entry in module.ENTRIES}
    return found
