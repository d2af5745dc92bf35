"""Every layout becomes one table, mapped by name and joined by frame id; contradictions are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from downstream_factory import make_folder

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.names import CHOLEC80_TOOLS, PHASE_SETS
from trocar.errors import ConfigError, TrocarError


def test_the_phantoms_phases_are_known() -> None:
    spec = pytest.importorskip("trocar.phantom.spec")
    assert PHASE_SETS["phantom"] == spec.PHASES


def cholect50(root: Path, annotations: dict[str, list[list[float]]], images: list[int]) -> Path:
    (root / "labels").mkdir()
    (root / "videos/VID07").mkdir(parents=True)
    for number in images:
        (root / f"videos/VID07/{number:06d}.png").write_bytes(b"png")
    categories = {
        "instrument": dict(enumerate(["grasper", "hook", "bipolar", "irrigator", "clipper", "scissors"])),
        "phase": {"0": "gallbladder-extraction", "1": "carlot-triangle-dissection"},
    }
    tree = {"fps": 1, "categories": categories, "annotations": annotations}
    (root / "labels/VID07.json").write_text(json.dumps(tree))
    return root


def entry(instrument: int, phase: int) -> list[float]:
    return [0, instrument, *[-1.0] * 12, phase]


def test_cholect50_is_mapped_by_name_not_by_index(tmp_path: Path) -> None:
    annotations = {"3": [entry(1, 0)], "10": [entry(0, 1), entry(1, 1), entry(-1, 1)]}
    data = open_dataset(cholect50(tmp_path, annotations, [3, 4, 10]))
    assert data.frames["path"].tolist() == ["videos/VID07/000003.png", "videos/VID07/000010.png"]
    assert [data.space("phase").classes[i] for i in data.frames["phase"]] == [
        "GallbladderRetraction",
        "CalotTriangleDissection",
    ]
    assert data.frames[list(data.space("tools").columns)].to_numpy().tolist() == [
        [0, 0, 1, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
    ]
    assert data.space("tools").classes == CHOLEC80_TOOLS[:6]
    assert data.notes == ("VID07: 1 images without a label left out",)


def test_cholect50_frames_that_contradict_themselves_or_the_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="frame 3 is labelled, but"):
        open_dataset(cholect50(tmp_path, {"3": [entry(0, 0)]}, [4]))
    tree = json.loads((tmp_path / "labels/VID07.json").read_text())
    tree["annotations"] = {"4": [entry(0, 0), entry(1, 1)]}
    (tmp_path / "labels/VID07.json").write_text(json.dumps(tree))
    with pytest.raises(TrocarError, match=r"several phases \[0, 1\]"):
        open_dataset(tmp_path)


@pytest.mark.data
def test_cholect50_counts_on_real_labels(shared_data: Path) -> None:
    data = open_dataset(shared_data / "cholect50_val")
    assert (data.layout, len(data), data.frames["case"].nunique()) == ("cholect50", 1128, 5)
    assert data.frames["phase"].value_counts().sort_index().tolist() == [39, 203, 258, 325, 103, 127, 73]
    table = pd.read_csv(shared_data / "cholect50_val/frames.csv")
    table = table[table["phase_id"] >= 0].set_index("path").loc[data.frames["path"]]
    assert (table["phase_id"].to_numpy() == data.frames["phase"].to_numpy()).all()
    tools = [tool.lower() for tool in data.space("tools").classes]
    assert (table[tools].to_numpy() == data.frames[list(data.space("tools").columns)].to_numpy()).all()


def test_the_folder_layout(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path, cases=2, frames=4))
    assert (data.layout, *(s.classes for s in data.spaces)) == ("folder", ("0", "1"), ("red",))
    assert data.frames["phase"].tolist() == [0, 0, 1, 1] * 2
    assert data.frames["tools/red"].tolist() == [1, 0, 0, 1] * 2
    assert len(open_dataset(tmp_path, options=DatasetOptions(fps=0.5))) == 4


def test_missing_images_and_double_rows_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    table = pd.read_csv(tmp_path / "frames.csv")
    pd.concat([table, table.assign(time_s=table["time_s"] + 9).head(1)]).to_csv(tmp_path / "frames.csv", index=False)
    with pytest.raises(TrocarError, match="labelled twice"):
        open_dataset(tmp_path)
    (tmp_path / "images/0_000.png").unlink()
    with pytest.raises(TrocarError, match=r"1 labelled files are missing, the first is images/0_000\.png"):
        open_dataset(tmp_path)


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
