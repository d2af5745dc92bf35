"""Frames are the labelled ones, decoded once; features are the bare forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from downstream_factory import make_cholec80, make_folder
from PIL import Image

from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Preprocessing, describe_backbone
from trocar.cli.main import main
from trocar.downstream.datasets import open_dataset
from trocar.downstream.evaluation.contenders import BASELINES
from trocar.downstream.features import frame_cache as frames_module
from trocar.downstream.features.feature_cache import cached_features, extract, features_path
from trocar.downstream.features.frame_cache import FrameCache, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError


def test_the_decoded_video_frame_is_the_labelled_one(tmp_path: Path) -> None:
    data = open_dataset(make_cholec80(tmp_path / "data", videos=2))
    pixels = FrameCache(data, tmp_path / "cache").get(16)
    brightness = pixels.mean((1, 2, 3))
    assert pixels.shape == (8, 16, 16, 3)
    assert brightness == pytest.approx(8 * data.frames["frame"].to_numpy() + 16, abs=3)


def test_several_videos_at_a_time_are_decoded_to_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(make_cholec80(tmp_path / "data", videos=3))
    alone = np.array(FrameCache(data, tmp_path / "one").get(16))
    monkeypatch.setattr(frames_module, "granted_cores", lambda: 12)
    assert frames_module.videos_at_once() == 3
    assert (FrameCache(data, tmp_path / "several").get(16) == alone).all()


def test_images_are_squashed_so_that_the_borders_stay(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path / "data", cases=1, frames=2))
    pixels = FrameCache(data, tmp_path / "cache").get(24)
    red = pixels[0, :, :, 0].astype(float)
    assert pixels.shape == (2, 24, 24, 3)
    assert red[:, :2].mean() == pytest.approx(120, abs=5)
    assert red[:, -2:].mean() == pytest.approx(120, abs=5)


def test_a_second_look_decodes_nothing_and_a_changed_file_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(make_folder(tmp_path / "data", cases=1, frames=2))
    first = np.array(FrameCache(data, tmp_path / "cache").get(16))
    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "decoded", lambda *_: pytest.fail("decoded again"))
        assert (FrameCache(data, tmp_path / "cache").get(16) == first).all()
    (data.root / "images/0_000.png").write_bytes((data.root / "images/0_001.png").read_bytes())
    assert not (FrameCache(data, tmp_path / "cache").get(16) == first).all()


def test_a_cache_of_another_format_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset(make_folder(tmp_path / "data", cases=1, frames=2))
    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "FORMAT", "squash-bilinear-1")
        old = FrameCache(data, tmp_path / "cache")
        old.folder.mkdir()
        np.save(old.path(16), np.zeros((2, 16, 16, 3), np.uint8))
        assert not old.get(16).any()
    assert FrameCache(data, tmp_path / "cache").get(16).any()


def test_a_frame_that_cannot_be_decoded_is_named_and_leaves_no_cache(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path / "data", cases=1, frames=2))
    (data.root / "images/0_001.png").write_bytes(b"broken")
    with pytest.raises(TrocarError, match=r"0_001\.png: not an image, a text file; labelled frames are not replaced"):
        FrameCache(data, tmp_path / "cache").get(16)
    assert list((tmp_path / "cache").iterdir()) == []


def turned_copies(folder: Path, kind: str, **options: Any) -> LabelledFrames:
    """A picture as it is shown, then stored in the eight ways that EXIF knows, each with its orientation."""
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((64, 48))
    # The turn that brings each orientation upright is undone before the picture is stored.
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    folder.mkdir()
    shown.save(folder / f"0.{kind}", **options)
    for orientation in range(1, 9):
        stored = shown.transpose(Image.Transpose(undone[orientation])) if orientation in undone else shown
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(folder / f"{orientation}.{kind}", exif=exif, **options)
    rows = [{"path": f"{i}.{kind}", "case": "a", "time_s": i, "phase": i % 2} for i in range(9)]
    pd.DataFrame(rows).to_csv(folder / "frames.csv", index=False)
    return open_dataset(folder)


@pytest.mark.parametrize(
    ("kind", "options", "off"),
    [("png", {}, 0.0), ("tif", {}, 0.0), ("jpg", {"quality": 95, "subsampling": "4:4:4"}, 2.0)],
    ids=["PNG", "TIFF", "JPEG"],
)
def test_a_picture_that_says_it_is_turned_is_scored_upright(
    tmp_path: Path, kind: str, options: dict[str, Any], off: float
) -> None:
    data = turned_copies(tmp_path / "data", kind, **options)
    for size in (32, (48, 64)):
        pixels = FrameCache(data, tmp_path / "cache").get(size).astype(int)
        assert np.abs(pixels[1:] - pixels[0]).mean((1, 2, 3)).max() <= off
    own = dict(decoded(data, [None]))
    assert [own[row][0].shape for row in range(9)] == [(48, 64, 3)] * 9


def test_a_cache_of_pictures_that_were_not_turned_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = turned_copies(tmp_path / "data", "png")
    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "FORMAT", "squash-bilinear-1")
        old = FrameCache(data, tmp_path / "cache").path(16)
    old.parent.mkdir()
    np.save(old, np.zeros((9, 16, 16, 3), np.uint8))
    assert FrameCache(data, tmp_path / "cache").get(16).any()


@pytest.mark.parametrize(
    ("pixels", "name", "mode"),
    [
        (np.full((48, 64), 4000, np.uint16), "1.png", "I;16"),
        (np.full((48, 64), 4000, np.uint16), "1.tif", "I;16"),
        (np.full((48, 64), 4000, np.int32), "1.tif", "I"),
        (np.full((48, 64), 0.5, np.float32), "1.tif", "F"),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "32-bit TIFF", "float TIFF"],
)
def test_more_than_8_bits_are_refused_in_the_words_of_ingest(
    tmp_path: Path, pixels: np.ndarray, name: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    rows = [{"path": path, "case": "a", "time_s": i, "phase": i} for i, path in enumerate(["0.png", name])]
    pd.DataFrame(rows).to_csv(tmp_path / "frames.csv", index=False)
    words = f"{name}: unsupported image, mode {mode}: more than 8 bits per channel"
    with pytest.raises(TrocarError, match=words):
        FrameCache(open_dataset(tmp_path), tmp_path / "cache").get(16)
    assert main(["inspect", str(tmp_path), "--verify"]) == 1
    assert words in " ".join(capsys.readouterr().err.split())


def test_features_are_the_forward_pass_in_eval_mode(tmp_path: Path) -> None:
    model = load_backbone("resnet18", seed=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = extract(model, pixels, describe_backbone(model), batch=2)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = model.eval()((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).numpy()
    assert found.shape == (5, 512)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_feature_cache_tells_weights_apart(tmp_path: Path) -> None:
    frames = FrameCache(open_dataset(make_folder(tmp_path / "data", cases=1, frames=2)), tmp_path / "cache")
    one, two = (cached_features(load_backbone("resnet18", seed=s), frames, 32) for s in (1, 2))
    assert not np.array_equal(one, two)
    assert len(list(frames.folder.glob("features-*"))) == 2
    assert np.array_equal(cached_features(load_backbone("resnet18", seed=1), frames, 32), one)
    assert len(list(frames.folder.glob("features-*"))) == 2


def test_features_in_bfloat16_are_near_those_in_float32_and_kept_beside_them(tmp_path: Path) -> None:
    frames = FrameCache(open_dataset(make_folder(tmp_path / "data", cases=1, frames=4)), tmp_path / "cache")
    model = load_backbone("random:test_vit", seed=1)
    exact = np.array(cached_features(model, frames, 32))
    rounded = np.array(cached_features(model, frames, 32, precision="bfloat16"))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.03 * np.abs(exact).max()
    assert len({features_path(model, frames, 32), features_path(model, frames, 32, "bfloat16")}) == 2
    assert np.array_equal(cached_features(model, frames, 32), exact)
    assert np.array_equal(cached_features(model, frames, 32, precision="bfloat16"), rounded)


class Small(torch.nn.Module):
    """A network with memory for `room` images at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.seen = room, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
        return images.mean((2, 3))


def test_a_batch_that_does_not_fit_is_computed_in_halves_where_nobody_gave_a_batch() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    expected = extract(Small(100), pixels, Preprocessing())
    model = Small(20)
    assert extract(model, pixels, Preprocessing()) == pytest.approx(expected)
    assert model.seen == [64, 32, 16, 16, 16, 16, 16, 16, 4]


def test_memory_that_runs_out_is_a_sentence_that_names_the_batch() -> None:
    pixels = np.zeros((40, 8, 8, 3), dtype=np.uint8)
    words = (
        r"^out of memory \(CUDA out of memory. Tried to allocate 2.00 GiB.\). That was 32 frames at a time through "
        r"mine: lower batch \(now 32\)"
    )
    with pytest.raises(TrocarError, match=words):
        extract(Small(20), pixels, Preprocessing(), batch=32, whose="mine")
    with pytest.raises(TrocarError, match="Not one frame at a time fits through mine: take a smaller size"):
        extract(Small(0), pixels, Preprocessing(), whose="mine")


def test_features_of_some_rows_are_those_rows_of_all() -> None:
    model = load_backbone("random:test_resnet", seed=1)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    rows = np.array([5, 0, 3])
    everything = extract(model, pixels, describe_backbone(model), batch=7)
    assert extract(model, pixels, describe_backbone(model), rows, batch=2) == pytest.approx(everything[rows], abs=1e-5)


def test_features_that_were_cut_off_are_computed_again(tmp_path: Path) -> None:
    frames = FrameCache(open_dataset(make_folder(tmp_path / "data", cases=1, frames=2)), tmp_path / "cache")
    model = load_backbone("random:test_resnet", seed=1)
    whole = np.array(cached_features(model, frames, 32))
    path = features_path(model, frames, 32)
    path.write_bytes(path.read_bytes()[:-8])
    assert np.array_equal(cached_features(model, frames, 32), whole)


def test_features_that_overflow_are_refused_with_the_frame_and_not_kept(tmp_path: Path) -> None:
    frames = FrameCache(open_dataset(make_folder(tmp_path / "data", cases=1, frames=2)), tmp_path / "cache")
    model = load_backbone("random:test_resnet", seed=1)
    with torch.no_grad():
        for branch in ("bn2", "downsample.2"):  # numbers, but not their sum
            model.state_dict()[f"layer4.0.{branch}.bias"].fill_(3e38)
    message = "^mine gives features that are NaN or infinite, the first for frame 0;"
    with pytest.raises(TrocarError, match=message):
        cached_features(model, frames, 32, whose="mine")
    path = features_path(model, frames, 32)
    assert not path.exists()
    np.save(path, np.array([[0.0], [np.nan]], np.float32))  # as an older version kept them
    with pytest.raises(TrocarError, match="the first for frame 1;"):
        cached_features(model, frames, 32, whose="mine")


def test_baseline_features_by_hand(tmp_path: Path) -> None:
    frames = FrameCache(open_dataset(make_folder(tmp_path / "data", cases=1, frames=4)), tmp_path / "cache")
    pixels = frames.get(32) / 255
    assert BASELINES.get("raw pixels")(frames)[2] == pytest.approx(pixels[2].ravel(), abs=1e-6)
    assert BASELINES.get("mean colour")(frames)[2] == pytest.approx(
        [*pixels[2].mean((0, 1)), *pixels[2].std((0, 1))], abs=1e-4
    )
    assert BASELINES.get("time")(frames)[1] == pytest.approx([1, 1 / 3, 1 / 9, 1 / 27, np.log(2)], abs=1e-6)
