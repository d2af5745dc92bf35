"""CholecSeg8k: grey values of the watershed mask, four masks with an alpha channel, no official split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.cholecseg8k import GREYS, SPLITS, read_mask
from trocar.errors import ConfigError, TrocarError

GREY_ROW = [50, 11, 21, 13, 12, 31, 23, 24, 25, 32, 22, 33, 5]


def write_frame(clip: Path, number: int, greys: list[int], mode: str = "RGB") -> None:
    clip.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.tile(np.array(greys, np.uint8), (2, 1))).convert(mode)
    mask.save(clip / f"frame_{number}_endo_watershed_mask.png")
    Image.new("RGB", (len(greys), 2), (200, 10, 10)).save(clip / f"frame_{number}_endo.png")
    for other in ("mask", "color_mask"):
        Image.new("RGB", (len(greys), 2), (9, 99, 199)).save(clip / f"frame_{number}_endo_{other}.png")


def make(root: Path, videos: tuple[int, ...] = (1, 12), frames: tuple[int, ...] = (80, 81)) -> Path:
    for video in videos:
        for number in frames:
            write_frame(root / f"video{video:02d}/video{video:02d}_00080", number, GREY_ROW)
    return root


def test_the_watershed_mask_is_read_by_grey_value(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path))
    space = data.space("segmentation")
    assert (data.layout, data.tasks) == ("cholecseg8k", ("segmentation",))
    first = data.frames.iloc[0]
    assert first["path"] == "video01/video01_00080/frame_80_endo.png"
    assert first["mask"] == "video01/video01_00080/frame_80_endo_watershed_mask.png"
    assert space.read_mask is not None
    assert space.read_mask(tmp_path / first["mask"]).tolist() == [list(range(13))] * 2
    assert (space.classes[0], space.classes[9], space.classes[12]) == ("Black background", "L-hook", "Liver ligament")


def test_a_case_is_a_video_and_a_clip_is_a_sequence_at_25_fps(tmp_path: Path) -> None:
    frames = open_dataset(make(tmp_path, videos=(1,), frames=(80, 105, 1000))).frames
    assert frames["time_s"].tolist() == [3.2, 4.2, 40.0]
    assert (frames["case"].unique().tolist(), frames["video"].unique().tolist()) == (["video01"], ["video01_00080"])


def test_pixels_nobody_labelled_are_not_scored_and_unknown_values_are_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, [0, 255, 35, 36, 22])
    path = tmp_path / "frame_1_endo_watershed_mask.png"
    assert read_mask(path)[0].tolist() == [255, 255, 255, 255, 10]
    write_frame(tmp_path, 1, [50, 51, 80])
    with pytest.raises(TrocarError, match=r"unknown values \[51, 80\]"):
        read_mask(path)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_masks_with_alpha_or_in_other_modes_are_the_same_mask(tmp_path: Path, mode: str) -> None:
    write_frame(tmp_path, 1, GREY_ROW, mode)
    assert read_mask(tmp_path / "frame_1_endo_watershed_mask.png")[0].tolist() == list(range(13))


def test_a_colour_mask_in_the_place_of_the_watershed_mask_is_refused(tmp_path: Path) -> None:
    write_frame(tmp_path, 1, GREY_ROW)
    with pytest.raises(TrocarError, match="its channels differ"):
        read_mask(tmp_path / "frame_1_endo_color_mask.png")


def test_silvas_split_is_the_default_and_has_every_video_once(tmp_path: Path) -> None:
    videos = [video for part in SPLITS["silva22"].values() for video in part]
    assert sorted(videos) == [1, 9, 12, 17, 18, 20, 24, 25, 26, 27, 28, 35, 37, 43, 48, 52, 55]
    frames = open_dataset(make(tmp_path, videos=(1, 12, 17))).frames
    assert frames.groupby("case")["split"].first().tolist() == ["train", "test", "val"]
    with pytest.raises(ConfigError, match="did you mean 'silva22'"):
        open_dataset(tmp_path, options=DatasetOptions(split="silva2"))


def test_every_frame_is_used_whatever_the_rate(tmp_path: Path) -> None:
    make(tmp_path, videos=(1,), frames=tuple(range(80, 90)))
    assert len(open_dataset(tmp_path, options=DatasetOptions(fps=1))) == 10


def test_counts_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path, videos=(9, 28, 43)))
    assert data.notes[:2] == (
        "video09_00080: 2 frames, published clips have 80",
        "video28_00080: 2 frames, published clips have 80",
    )
    assert data.notes[3] == "6 of 8,080 published frames are here, of 3 of 17 videos"
    assert data.budgets == {"endovit-1-videos": (("video09",), ("video28",), ("video43",))}
    assert data.notes[4] == "budget endovit-2-videos left out: training video 1, 24, 25, 48, 55 not here"


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "video12/video12_00080/frame_81_endo_watershed_mask.png").unlink()
    with pytest.raises(TrocarError, match=r"the first is video12/video12_00080/frame_81_endo_watershed_mask\.png"):
        open_dataset(tmp_path)


def test_eight_classes_through_the_remap(tmp_path: Path) -> None:
    data = open_dataset(make(tmp_path), options=DatasetOptions(remap="cholecseg8k_8"))
    space = data.space("segmentation")
    assert space.read_mask is not None
    mask = space.read_mask(tmp_path / data.frames.loc[0, "mask"])
    assert mask[0].tolist() == [0, 1, 2, 3, 4, 7, 6, 6, 6, 7, 5, 6, 6]
    assert (len(space.classes), space.classes[5], space.classes[7]) == (8, "Gallbladder", "Instrument")
    assert list(GREYS.values()) == GREY_ROW
