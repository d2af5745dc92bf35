"""Every layout becomes one table, mapped by name and joined by frame id; contradictions are refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from downstream_factory import make_folder

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import PHASE_SETS
from trocar.errors import ConfigError


def test_the_phantoms_phases_are_known() -> None:
    spec = pytest.importorskip("trocar.phantom.spec")
    assert PHASE_SETS["phantom"] == spec.PHASES


def test_the_fingerprint_follows_the_labels(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    before = open_dataset(tmp_path).fingerprint
    assert open_dataset(tmp_path).fingerprint == before
    table = pd.read_csv(tmp_path / "frames.csv")
    table.loc[0, "phase"] = 1
    table.to_csv(tmp_path / "frames.csv", index=False)
    assert open_dataset(tmp_path).fingerprint != before


def test_bad_folders_and_layouts_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data folder"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"has no layout.*phase_annotations.*frames\.csv"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'cholec80'"):
        open_dataset(tmp_path, layout="cholec8")
