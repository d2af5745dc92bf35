"""Data set adapters: one file per published folder layout, each yielding one table of labelled frames."""

from __future__ import annotations

from pathlib import Path

from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.datasets.cholec80 import CHOLEC80
from trocar.downstream.datasets.cholect50 import CHOLECT50
from trocar.downstream.datasets.folder import FOLDER
from trocar.downstream.datasets.table import LabelledFrames
from trocar.errors import ConfigError, nearest

LAYOUTS: dict[str, Adapter] = {adapter.name: adapter for adapter in (CHOLEC80, CHOLECT50, FOLDER)}


def open_dataset(root: str | Path, layout: str | None = None, options: DatasetOptions | None = None) -> LabelledFrames:
    """Read the labels under `root`; the layout is recognised unless it is named.

    Raises ConfigError for a missing folder or a layout that is unknown or not recognised, TrocarError for
    labels that contradict themselves or the files.
    """
    root = Path(root)
    if not root.is_dir():
        raise ConfigError(f"no data folder {str(root)!r}")
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"no layout {layout!r}{nearest(layout, LAYOUTS)}; layouts: {', '.join(LAYOUTS)}")
    adapter = LAYOUTS[layout] if layout is not None else _recognise(root)
    return adapter.read(root, options or DatasetOptions())


def _recognise(root: Path) -> Adapter:
    for adapter in LAYOUTS.values():
        if adapter.matches(root):
            return adapter
    expected = "; ".join(f"{adapter.name}: {adapter.expects}" for adapter in LAYOUTS.values())
    raise ConfigError(f"{root} has no layout Trocar knows. Expected one of {expected}")
