"""Class remapping files: a data set's classes merged or ignored, as a paper evaluated them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from trocar.config import Config, load
from trocar.downstream.segmentation.loss import IGNORE
from trocar.errors import ConfigError, TrocarError, nearest

REMAPS = Path(__file__).parents[1] / "remaps"


class RemappedClass(Config):
    """One class after the remapping, and the source classes it is made `of`."""

    name: str = Field(min_length=1)
    of: list[str] = Field(min_length=1)


class Remap(Config):
    """`source`: names of the data set's classes in the order of their ids. `classes`: the new ones in the order of
    theirs. `ignore`: source classes that become 255. Every source class is in exactly one place.
    """

    source: list[str] = Field(min_length=1)
    classes: list[RemappedClass] = Field(min_length=2, max_length=IGNORE)
    ignore: list[str] = []

    @model_validator(mode="after")
    def _complete(self) -> Remap:
        used = Counter([name for new in self.classes for name in new.of] + self.ignore)
        names = Counter(new.name for new in self.classes)
        problems = [f"{n!r} is no source class{nearest(n, self.source)}" for n in used if n not in self.source]
        problems += [f"source class {n!r} is in no class and not ignored" for n in self.source if n not in used]
        problems += [f"source class {n!r} is used {k} times" for n, k in used.items() if k > 1]
        problems += [f"{n!r} is named twice in `source`" for n, k in Counter(self.source).items() if k > 1]
        problems += [f"two classes are named {n!r}" for n, k in names.items() if k > 1]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The new classes."""
        return tuple(new.name for new in self.classes)

    def require_source(self, classes: Sequence[str]) -> None:
        """Raises ConfigError unless the data set's classes are those this file was written for, in its order."""
        if list(classes) != self.source:
            raise ConfigError(
                f"this remapping is for the classes {', '.join(self.source)}; the data set has {', '.join(classes)}"
            )

    def apply(self, masks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Source ids uint8 [...] -> new ids of the same shape; 255 stays 255.

        Raises TrocarError for a value that is no source id.
        """
        table = np.full(256, IGNORE, dtype=np.uint8)
        for new, item in enumerate(self.classes):
            table[[self.source.index(name) for name in item.of]] = new
        values = np.flatnonzero(np.bincount(masks.ravel(), minlength=256))
        unknown = [int(v) for v in values if v >= len(self.source) and v != IGNORE]
        if unknown:
            raise TrocarError(
                f"the mask has the values {unknown}; source classes are 0 .. {len(self.source) - 1} and 255"
            )
        return table[masks]


def remap_names() -> list[str]:
    """The remapping files in the package."""
    return sorted(path.stem for path in REMAPS.glob("*.yaml"))


def load_remap(name_or_path: str | Path) -> Remap:
    """A remapping in the package by name (`cholecseg8k-8`), or a YAML file.

    Raises ConfigError for an unknown name or a file in which a source class is missing, unknown or used twice.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return load(Remap, path)
    names = remap_names()
    if str(name_or_path) not in names:
        raise ConfigError(
            f"no class remapping {str(name_or_path)!r}{nearest(str(name_or_path), names)}; there are"
            f" {', '.join(names)}, or give a .yaml file"
        )
    return load(Remap, REMAPS / f"{name_or_path}.yaml")
