"""What an adapter is, and the questions every adapter answers the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trocar.core.registry import Registry
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.splits.folds import Split


@dataclass(frozen=True)
class DatasetOptions:
    """`fps`: labelled frames per second that are used, at most as many as are labelled; `phases`: class names in order,
    where a data set's own are not the published ones; `split`: name of a published split list (None: the adapter's
    default, if it has one); `remap`: name or path of a file that merges classes of masks.
    """

    fps: float = 1.0
    phases: tuple[str, ...] = ()
    split: str | None = None
    remap: str | None = None


@dataclass(frozen=True)
class Adapter:
    """One published folder layout.

    `matches` recognises a folder by the names in it and reads no labels; `read` makes the table; `expects` is for the
    error message. `splits` are the published lists by name; `default_split` is the one used where none is asked for:
    None where the field has no agreed one.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, DatasetOptions], LabelledFrames]
    splits: Mapping[str, Split] = field(default_factory=dict)
    default_split: str | None = None


DATASETS: Registry[Adapter] = Registry(
    "datasets",
    "layout",
    plural="layouts",
    package="trocar.downstream.datasets",
    accepts=lambda thing: isinstance(thing, Adapter),
    expected="an Adapter",
)
"""The adapter of every folder layout by name."""
