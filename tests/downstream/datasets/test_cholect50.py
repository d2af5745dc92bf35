"""CholecT50: labels go by the names of the file's own categories; what is missing or off is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import CHOLEC80_TOOLS, DatasetOptions
from trocar.downstream.datasets.triplets import TRIPLETS
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError

# Not in the published order, so that a label read by position is a wrong one.
CATEGORIES = {
    "instrument": ["grasper", "hook", "bipolar", "irrigator", "clipper", "scissors"],
    "phase": ["gallbladder-extraction", "carlot-triangle-dissection", "clipping-and-cutting"],
    "triplet": ["hook,dissect,gallbladder", "grasper,dissect,cystic_plate", "irrigator,null_verb,null_target"],
}


def write_video(root: Path, annotations: dict[str, list[list[float]]], images: list[int], name: str = "VID07") -> Path:
    (root / "labels").mkdir(exist_ok=True)
    (root / f"videos/{name}").mkdir(parents=True)
    for number in images:
        (root / f"videos/{name}/{number:06d}.png").write_bytes(b"png")
    categories = {key: {str(i): value for i, value in enumerate(names)} for key, names in CATEGORIES.items()}
    write_labels(root, {"fps": 1, "categories": categories, "annotations": annotations}, name)
    return root


def write_labels(root: Path, tree: dict[str, Any], name: str = "VID07") -> None:
    (root / f"labels/{name}.json").write_text(json.dumps(tree))


def entry(instrument: int, phase: int, triplet: int = -1) -> list[float]:
    return [triplet, instrument, *[-1.0] * 12, phase]


def shown(data: LabelledFrames, task: str) -> list[list[str]]:
    space = data.space(task)
    values = data.frames[list(space.columns)].to_numpy()
    return [[space.classes[i] for i in np.flatnonzero(row)] for row in values]


def test_labels_are_mapped_by_name_not_by_number(tmp_path: Path) -> None:
    annotations = {"3": [entry(1, 0, 0)], "10": [entry(0, 1, 1), entry(1, 1, 0), entry(-1, 1)]}
    data = open_dataset(write_video(tmp_path, annotations, [3, 4, 10]))
    assert data.frames["path"].tolist() == ["videos/VID07/000003.png", "videos/VID07/000010.png"]
    phases = [data.space("phase").classes[i] for i in data.frames["phase"]]
    assert phases == ["GallbladderRetraction", "CalotTriangleDissection"]
    assert shown(data, "tools") == [["Hook"], ["Grasper", "Hook"]]
    assert shown(data, "triplet") == [
        ["hook,dissect,gallbladder"],
        ["grasper,dissect,cystic_plate", "hook,dissect,gallbladder"],
    ]
    assert data.space("tools").classes == CHOLEC80_TOOLS[:6]
    assert data.space("triplet").classes == TRIPLETS


def test_a_frame_without_a_triplet_shows_none_and_stays(tmp_path: Path) -> None:
    annotations = {"0": [entry(-1, 0)], "1": [entry(3, 0, 2), entry(3, 0, 2)]}
    data = open_dataset(write_video(tmp_path, annotations, [0, 1]))
    assert shown(data, "triplet") == [[], ["irrigator,null_verb,null_target"]]
    assert data.rows("triplet").tolist() == [0, 1]


def test_images_without_labels_copies_and_missing_videos_are_said(tmp_path: Path) -> None:
    write_video(tmp_path, {"3": [entry(0, 0)]}, [3, 4, 5])
    (tmp_path / "videos/VID07/000003 (1).png").write_bytes(b"copy")
    write_video(tmp_path, {"0": [entry(0, 0)]}, [], name="VID08")
    data = open_dataset(tmp_path)
    assert data.frames["path"].tolist() == ["videos/VID07/000003.png"]
    assert data.notes == (
        "VID08: labels without images left out",
        "2 images without a label left out, in VID07",
        "1 of 100,863 officially labelled frames are here, of 1 videos",
    )


def test_the_official_count_is_compared_unless_frames_are_thinned(tmp_path: Path) -> None:
    write_video(tmp_path, {str(i): [entry(0, 0)] for i in range(4)}, list(range(4)))
    assert open_dataset(tmp_path).missing("triplet", "") == (4, 100_863)
    thinned = open_dataset(tmp_path, options=DatasetOptions(fps=0.5))
    assert thinned.frames["time_s"].tolist() == [0.0, 2.0]
    assert thinned.official == {}


def test_a_published_split_goes_by_the_video_number(tmp_path: Path) -> None:
    for name in ("VID05", "VID06", "VID12"):
        write_video(tmp_path, {"0": [entry(0, 0)]}, [0], name)
    splits = {s: open_dataset(tmp_path, options=DatasetOptions(split=s)).frames["split"] for s in ("rdv", "challenge")}
    assert splits["rdv"].tolist() == ["train", "test", "val"]
    assert splits["challenge"].tolist() == ["val", "train", "train"]


def test_labels_that_contradict_themselves_or_the_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match=r"1 labelled frames have no image, the first is videos/VID07/000003\.png"):
        open_dataset(write_video(tmp_path, {"3": [entry(0, 0)], "4": [entry(0, 0)]}, [4]))
    tree = json.loads((tmp_path / "labels/VID07.json").read_text())
    write_labels(tmp_path, {**tree, "annotations": {"4": [entry(0, 0), entry(1, 1)]}})
    with pytest.raises(TrocarError, match=r"several phases \[0, 1\]"):
        open_dataset(tmp_path)
    write_labels(tmp_path, {**tree, "annotations": {"4": [entry(0, 0, 3)]}})
    with pytest.raises(TrocarError, match=r"triplets \[3\] are not in the file's categories"):
        open_dataset(tmp_path)
    write_labels(tmp_path, {**tree, "annotations": {"4": [entry(0, 0)[:14]]}})
    with pytest.raises(TrocarError, match="frame 4: expected entries of 15 numbers"):
        open_dataset(tmp_path)
    tree["categories"]["triplet"]["0"] = "hook,disect,gallbladder"
    write_labels(tmp_path, tree)
    with pytest.raises(TrocarError, match=r"'hook,disect,gallbladder' \(did you mean 'hook,dissect,gallbladder'"):
        open_dataset(tmp_path)
    write_labels(tmp_path, {"annotations": {}})
    with pytest.raises(TrocarError, match="no categories"):
        open_dataset(tmp_path)


@pytest.mark.data
def test_counts_on_real_labels(shared_data: Path) -> None:
    data = open_dataset(shared_data / "cholect50_val")
    assert (data.layout, len(data), data.frames["case"].nunique()) == ("cholect50", 1128, 5)
    assert data.frames["phase"].value_counts().sort_index().tolist() == [39, 203, 258, 325, 103, 127, 73]
    assert data.notes[-1] == "1,128 of 100,863 officially labelled frames are here, of 5 videos"
    table = pd.read_csv(shared_data / "cholect50_val/frames.csv")
    table = table[table["phase_id"] >= 0].set_index("path").loc[data.frames["path"]]
    assert (table["phase_id"].to_numpy() == data.frames["phase"].to_numpy()).all()
    tools = [tool.lower() for tool in data.space("tools").classes]
    assert (table[tools].to_numpy() == data.frames[list(data.space("tools").columns)].to_numpy()).all()


@pytest.mark.data
def test_triplets_of_real_labels_name_the_instruments_that_are_there(shared_data: Path) -> None:
    root = shared_data / "cholect50_val"
    data = open_dataset(root)
    entries = [
        (path.stem, int(number), int(row[0]))
        for path in (root / "labels").glob("*.json")
        for number, rows in json.loads(path.read_text())["annotations"].items()
        for row in rows
        if row[0] >= 0
    ]
    assert data.frames[list(data.space("triplet").columns)].to_numpy().sum() == len(set(entries))
    for frame_triplets, tools in zip(shown(data, "triplet"), shown(data, "tools"), strict=True):
        assert {triplet.partition(",")[0] for triplet in frame_triplets} == {tool.lower() for tool in tools}


@pytest.mark.data
def test_the_names_say_what_the_published_map_of_components_says(shared_data: Path) -> None:
    lines = (shared_data / "cholect50_val/label_mapping.txt").read_text().splitlines()[1:]
    table = np.array([[int(number) for number in line.split(",")] for line in lines])
    tree = json.loads((shared_data / "cholect50_val/labels/VID68.json").read_text())["categories"]
    for row in table:
        parts = [tree[key][str(i)] for key, i in zip(("instrument", "verb", "target"), row[1:4], strict=True)]
        assert TRIPLETS[row[0]] == ",".join(parts)
    assert len(table) == len(TRIPLETS)
