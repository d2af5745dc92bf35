"""What an adapter is, and the questions every adapter answers the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trocar.downstream.datasets.table import LabelledFrames


@dataclass(frozen=True)
class DatasetOptions:
    """`fps`: labelled frames per second that are used, at most as many as are labelled; `phases`: class names
    in order, where a data set's own are not the published ones; `split`: name of a published split list."""

    fps: float = 1.0
    phases: tuple[str, ...] = ()
    split: str | None = None


@dataclass(frozen=True)
class Adapter:
    """`matches` recognises a folder by the names in it, `read` makes the table; `expects` is for the error
    message.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, DatasetOptions], LabelledFrames]
