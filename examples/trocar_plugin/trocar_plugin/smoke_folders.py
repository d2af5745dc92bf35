"""A data set: a folder for each operation, whose images say in their names what they show: `op1/0012_smoke.png`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar import register_dataset
from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.labels import LabelledFrames, build_table
from trocar.errors import ConfigError
from trocar_plugin.smoke import CLASSES, SMOKE

IMAGES = "*/[0-9]*_*.png"


def _matches(root: Path) -> bool:
    return any(path.stem.partition("_")[2] in CLASSES for path in root.glob(IMAGES))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    if options.split is not None:
        raise ConfigError(f"smoke_folders has no published split {options.split!r}")
    rows = []
    for path in sorted(root.glob(IMAGES)):
        second, _, name = path.stem.partition("_")
        case = path.parent.name
        place = {"path": str(path.relative_to(root)), "frame": -1, "case": case, "video": case, "split": ""}
        rows.append({**place, "time_s": float(second), SMOKE.name: CLASSES.index(name)})
    return build_table(root, "smoke_folders", [pd.DataFrame(rows)], [SMOKE.space(CLASSES)])


ADAPTER = register_dataset(
    Adapter(
        name="smoke_folders",
        expects="OPERATION/0012_smoke.png and OPERATION/0013_clear.png: seconds, and what is seen",
        matches=_matches,
        read=_read,
    )
)
