"""Pooled features of arrays, pictures, videos and shards."""

import numpy as np
import pandas as pd
import pytest
import torch
from data_factory import make_catalog
from downstream_factory import make_folder, write_clip
from PIL import Image
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.cli.main import main
from trocar.errors import ConfigError, TrocarError
from trocar.jobs.embed import embed

BACKBONE = "random:test_resnet"


class MeanColour(nn.Module):
    """[n, 3]: what the mean of each channel is."""

    def forward(self, x):
        return x.mean((2, 3))


def by_hand(images):
    """Features of uint8 [n, H, W, 3] without anything of the job."""
    model = load_backbone(BACKBONE).eval()
    shape = describe_backbone(model)
    side = shape.size[0]
    small = [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BILINEAR)) for i in images]
    with torch.inference_mode():
        return model(shape.normalise(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))).numpy()


def test_an_array_gives_the_features_of_the_squashed_pictures(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    found = embed(images, BACKBONE, batch=2)
    np.testing.assert_allclose(found.features, by_hand(images), rtol=1e-4, atol=1e-5)
    assert found.features.dtype == np.float32


def test_shards_give_a_row_for_every_frame_of_the_catalog(tmp_path):
    catalog = make_catalog(tmp_path / "shards", 2, 3)
    found = embed(tmp_path / "shards", BACKBONE)
    np.testing.assert_allclose(
        found.features, by_hand([np.asarray(catalog[i]) for i in range(6)]), rtol=1e-4, atol=1e-5
    )
    assert list(found.rows.columns) == ["row", "source", "case_id", "video", "time_s"]
    assert list(found.rows["video"]) == ["video00"] * 3 + ["video01"] * 3
    assert list(found.rows["time_s"]) == [0, 1, 2] * 2
    assert found.table.shape == (6, 5 + found.features.shape[1])


def test_pictures_and_videos_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    for name, level in (("a", 10), ("c", 200)):
        Image.fromarray(np.full((20, 20, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    write_clip(tmp_path / "b.mp4", 10, fps=5)  # frame k is grey 8 k + 16
    found = embed(tmp_path, MeanColour(), fps=1, size=32)
    assert [path.rpartition("/")[2] for path in found.rows["path"]] == ["a.png", "b.mp4", "b.mp4", "c.png"]
    assert list(found.rows["frame"]) == [-1, 0, 5, -1]
    np.testing.assert_allclose(found.rows["time_s"], [np.nan, 0, 1, np.nan])
    shape = describe_backbone(MeanColour())
    levels = found.features[:, 0] * shape.std[0] * 255 + shape.mean[0] * 255
    np.testing.assert_allclose(levels, [10, 16, 56, 200], atol=3)


def test_a_module_that_is_handed_in_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed(np.zeros((2, 16, 16, 3), np.uint8), model, size=16)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model, "pretrained_cfg")


def test_what_cannot_be_embedded_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"uint8 \[n, height, width, 3\]"):
        embed(np.zeros((2, 16, 16), np.uint8), BACKBONE)
    with pytest.raises(ConfigError, match="no such file or folder"):
        embed(tmp_path / "nothing", BACKBONE)
    with pytest.raises(ConfigError, match="no picture in it"):
        embed(tmp_path, BACKBONE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(TrocarError, match=r"a\.png: not an image"):
        embed(tmp_path, BACKBONE)


def test_the_command_writes_a_table_or_an_array_with_its_rows(tmp_path, capsys):
    make_folder(tmp_path / "labels", cases=1, frames=3)
    words = ["embed", str(tmp_path / "labels" / "images"), "--backbone", BACKBONE, "--size", "32"]
    assert main([*words, "--out", str(tmp_path / "f.parquet")]) == 0
    assert main([*words, "--out", str(tmp_path / "f.npy")]) == 0
    assert "3 frames" in capsys.readouterr().out
    table, array = pd.read_parquet(tmp_path / "f.parquet"), np.load(tmp_path / "f.npy")
    np.testing.assert_array_equal(table.filter(regex=r"^f\d+$").to_numpy(), array)
    assert list(pd.read_csv(tmp_path / "f.csv")["path"]) == list(table["path"])
    assert main([*words, "--out", str(tmp_path / "f.txt")]) == 2
    assert ".parquet or .npy" in capsys.readouterr().err
