"""Data set adapters: one file per published folder layout, each yielding one table of labelled frames.

A file registers its `Adapter` with `DATASETS`: there is no list to edit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.datasets.readers.masks import remap_masks
from trocar.downstream.folds import here_of
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError

OWN = "folder"
"""Asked last: a published data set with a CSV of one's own in it is still that data set."""


def open_dataset(root: str | Path, layout: str | None = None, options: DatasetOptions | None = None) -> LabelledFrames:
    """Read the labels under `root`; the layout is recognised unless it is named.

    Raises ConfigError for a missing folder, a layout that is unknown, ambiguous or not recognised, or a remap that does
    not fit, TrocarError for labels that contradict themselves or the files.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"no data folder {str(root)!r}")
    adapter = DATASETS.get(layout) if layout is not None else recognise(root)
    if adapter is None:
        expected = "; ".join(f"{one.name}: {one.expects}" for one in DATASETS.values())
        raise ConfigError(f"{root} has no layout Trocar knows. Expected one of {expected}")
    options = options or DatasetOptions()
    data = _listed(adapter.read(root, options), adapter, options)
    return remap_masks(data, options.remap) if options.remap is not None else data


def _listed(data: LabelledFrames, adapter: Adapter, options: DatasetOptions) -> LabelledFrames:
    """With what is here of the published list that is used: a test on some of its videos is another test."""
    name = options.split or adapter.default_split
    if name is None or name not in adapter.splits:
        return data
    videos = {*data.frames["video"].astype(str), *data.frames["case"].astype(str)}
    return replace(data, listed=here_of(name, adapter.splits, videos))


def recognise(root: Path) -> Adapter | None:
    """The adapter whose layout the folder has; None if none. Raises ConfigError if several fit."""
    fitting = [adapter for name, adapter in DATASETS.items() if name != OWN and adapter.matches(root)]
    if len(fitting) > 1:
        names = ", ".join(adapter.name for adapter in fitting)
        raise ConfigError(f"{root} could be any of {names}; name it with --layout")
    own = DATASETS.get(OWN)
    return fitting[0] if fitting else own if own.matches(root) else None
