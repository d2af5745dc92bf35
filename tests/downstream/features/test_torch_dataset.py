"""Labelled frames as a torch Dataset."""

import numpy as np
import pandas as pd
import pytest
import torch
from downstream_factory import make_cholec80, make_folder
from PIL import Image
from torch.utils.data import DataLoader

import trocar
from trocar.errors import ConfigError


def test_pictures_and_labels_are_those_of_the_table(tmp_path):
    data = trocar.open_dataset(make_folder(tmp_path / "labels", cases=2, frames=4))
    frames = data.as_torch("phase")
    assert len(frames) == 8
    image, label = frames[3]
    with Image.open(tmp_path / "labels" / data.frames["path"][3]) as picture:
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(picture))
    assert label == data.frames["phase"][3]
    _, tools = data.as_torch("tools")[0]
    assert torch.equal(tools, torch.tensor([1.0]))


def test_a_transform_gets_the_picture_and_a_loader_batches_it(tmp_path):
    data = trocar.open_dataset(make_folder(tmp_path / "labels", cases=2, frames=4))
    frames = data.as_torch("phase", lambda image: torch.tensor(image.size))
    sizes, labels = next(iter(DataLoader(frames, batch_size=8)))
    assert torch.equal(sizes, torch.tensor([[64, 48]] * 8))
    assert labels.tolist() == data.frames["phase"].tolist()


def test_one_split_alone_is_taken_and_a_mistyped_one_is_refused(tmp_path):
    root = make_folder(tmp_path / "labels", cases=2, frames=4)
    table = pd.read_csv(root / "frames.csv")
    table["split"] = table["case"].map({"case0": "train", "case1": "test"})
    table.to_csv(root / "frames.csv", index=False)
    data = trocar.open_dataset(root)
    assert {data.frames["case"][row] for row in data.as_torch("phase", split="test").rows} == {"case1"}
    with pytest.raises(ConfigError, match="no split 'val'"):
        data.as_torch("phase", split="val")


def test_masks_move_with_their_picture(tmp_path):
    root = make_folder(tmp_path / "labels", cases=1, frames=2)
    Image.fromarray(np.eye(48, 64, dtype=np.uint8)).save(root / "mask.png")
    pd.read_csv(root / "frames.csv").assign(mask="mask.png").to_csv(root / "frames.csv", index=False)
    (root / "classes.yaml").write_text("segmentation: [rest, tool]\n")
    frames = trocar.open_dataset(root).as_torch("segmentation")
    image, mask = frames[0]
    assert image.shape == (3, 48, 64)
    assert torch.equal(mask, torch.eye(48, 64, dtype=torch.uint8))
    turned = trocar.open_dataset(root).as_torch(
        "segmentation", lambda image, mask: (image.rotate(180), mask.flip(0, 1))
    )
    assert torch.equal(turned[0][1], mask.flip(0, 1))


def test_frames_of_videos_are_decoded_once_to_a_size(tmp_path):
    data = trocar.open_dataset(make_cholec80(tmp_path / "data", videos=3))
    with pytest.raises(ConfigError, match="give size"):
        data.as_torch("phase")
    frames = data.as_torch("phase", size=32, cache=tmp_path / "cache")
    image, label = frames[0]
    assert image.shape == (3, 32, 32)
    assert label == 0
    assert float(image.float().mean()) == pytest.approx(16, abs=4)  # frame 0 is grey 16
