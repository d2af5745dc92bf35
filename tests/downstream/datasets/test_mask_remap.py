"""Classes of masks are merged by name; a file that leaves one out or invents one is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.cholecseg8k import GREYS
from trocar.downstream.datasets.readers.masks import load_remap, remap_names
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError

GOOD = "classes: [tissue, tool]\nmerge: {background: ignore, liver: tissue, fat: tissue, hook: tool}\n"


def dataset(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    Image.new("RGB", (5, 1)).save(root / "a.png")
    Image.fromarray(np.array([[0, 1, 2, 3, 255]], np.uint8)).save(root / "m.png")
    pd.DataFrame([{"path": "a.png", "case": "c", "mask": "m.png"}]).to_csv(root / "frames.csv", index=False)
    (root / "classes.yaml").write_text("segmentation: [background, liver, hook, fat]\n")
    return root


def opened(tmp_path: Path, remap: str) -> LabelledFrames:
    (tmp_path / "merge.yaml").write_text(remap)
    return open_dataset(dataset(tmp_path / "data"), options=DatasetOptions(remap=str(tmp_path / "merge.yaml")))


def test_masks_are_merged_by_name_and_ignored_pixels_stay_ignored(tmp_path: Path) -> None:
    data = opened(tmp_path, GOOD)
    space = data.space("segmentation")
    assert space.read_mask is not None
    assert space.classes == ("tissue", "tool")
    assert space.read_mask(data.root / "m.png").tolist() == [[255, 0, 1, 0, 255]]
    assert data.fingerprint != open_dataset(data.root).fingerprint


def test_a_remapped_reader_goes_to_other_processes(tmp_path: Path) -> None:
    data = opened(tmp_path, GOOD)
    reader = pickle.loads(pickle.dumps(data.space("segmentation").read_mask))
    assert reader(data.root / "m.png").tolist() == [[255, 0, 1, 0, 255]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("fat: tissue, ", ""), "says nothing of the class 'fat'"),
        (GOOD.replace("fat:", "fad:"), r"no class 'fad' \(did you mean 'fat'"),
        (GOOD.replace("hook: tool", "hook: tol, bone: tool"), r"merge.hook: no class 'tol' \(did you mean 'tool'"),
        (GOOD.replace("[tissue, tool]", "[tissue, tool, bone]"), "nothing becomes 'bone'"),
        (GOOD.replace("[tissue, tool]", "[tissue, tissue]"), "names must differ"),
        (GOOD.replace("fat: tissue", "fat: tissue, liver: tool"), "'liver' is listed twice"),
        (GOOD.replace("merge:", "merged:"), r"merged"),
        ("classes: [a", "not valid YAML"),
        ("- a", "expected `classes` and `merge`"),
    ],
)
def test_a_file_that_contradicts_itself_or_the_data_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, text)


def test_the_file_for_cholecseg8k_names_its_classes() -> None:
    assert remap_names() == ["cholecseg8k_8"]
    remap = load_remap("cholecseg8k_8")
    assert set(remap.merge) == set(GREYS)
    assert len(remap.classes) == 8
    with pytest.raises(ConfigError, match="did you mean 'cholecseg8k_8'"):
        load_remap("cholecseg8k")


def test_a_data_set_without_masks_has_nothing_to_merge(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    with pytest.raises(ConfigError, match="has no masks; its tasks: phase, tools"):
        open_dataset(tmp_path, options=DatasetOptions(remap="cholecseg8k_8"))


@pytest.mark.parametrize(
    ("merge", "background"),
    [
        ("{background: rest, liver: tissue, fat: tissue, hook: tool}", "rest"),
        ("{background: tissue, liver: tissue, fat: rest, hook: tool}", None),
        ("{background: ignore, liver: tissue, fat: rest, hook: tool}", None),
    ],
)
def test_the_background_stays_one_only_where_nothing_is_merged_into_it(
    tmp_path: Path, merge: str, background: str | None
) -> None:
    data = opened(tmp_path, f"classes: [tissue, tool, rest]\nmerge: {merge}\n")
    assert data.space("segmentation").background_name == background
