"""Which file is which moment, and that nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from trocar.data.ingest.sources.find import FrameSpec, list_frames, thin
from trocar.errors import ConfigError


def folder(path: Path, *names: str) -> Path:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{number:06d}.jpg", ["000010.jpg", "000035.jpg", "x.txt", "000050.png"]),
        ("{number}.jpg", ["10.jpg", "35.jpg"]),
        ("*_frame-{number}.png", ["a_frame-10.png", "b(2)_frame-35.png", "frame-60.png"]),
        (r"v\d+_(?P<number>\d+)\.(jpg|png)", ["v1_10.jpg", "v1_35.png", "v1_x_60.jpg"]),
    ],
)
def test_numbers_become_seconds(tmp_path: Path, pattern: str, names: list[str]) -> None:
    frames = list_frames(folder(tmp_path / "v", *names), FrameSpec(pattern, 25, 10))
    assert [frame.time_s for frame in frames] == [0, 1]


def test_a_star_before_the_number_leaves_all_digits_to_it(tmp_path: Path) -> None:
    frames = list_frames(folder(tmp_path / "v", "v2_017.jpg", "v2_115.jpg"), FrameSpec("*{number}.jpg", 1, 0))
    assert [frame.time_s for frame in frames] == [17, 115]


def test_order_is_by_number_not_by_name(tmp_path: Path) -> None:
    frames = list_frames(folder(tmp_path / "v", "9.jpg", "10.jpg", "100.jpg"), FrameSpec("{number}.jpg", 1, 0))
    assert [frame.path.name for frame in frames] == ["9.jpg", "10.jpg", "100.jpg"]


@pytest.mark.parametrize(
    ("pattern", "first", "message"),
    [
        ("{number}.png", 0, "no file name matches"),
        ("frame.jpg", 0, "say where the frame number stands"),
        ("(?P<number>\\d+", 0, "not a regular expression"),
        ("{number}.jpg", 5, "number 1 is before --first-number 5"),
        ("*{number}.jpg", 0, "both are number"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path: Path, pattern: str, first: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_frames(folder(tmp_path / "v", "1.jpg", "7.jpg", "a7.jpg"), FrameSpec(pattern, 1, first))


def test_thinning_takes_the_first_frame_of_each_interval_and_keeps_gaps(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in (0, 5, 10, 24, 25, 49, 110, 120, 130)]
    frames = list_frames(folder(tmp_path / "v", *names), FrameSpec("{number}.jpg", 25, 0))
    assert [f.path.stem for f in thin(frames, 1)] == ["0", "25", "110", "130"]
    assert len(list(thin(frames, 25))) == len(names)


def test_thinning_to_the_folder_s_own_rate_drops_nothing(tmp_path: Path) -> None:
    names = [f"{n}.jpg" for n in range(400)]
    for fps in (3, 7, 29.97, 30):
        frames = list_frames(folder(tmp_path / "v", *names), FrameSpec("{number}.jpg", fps, 0))
        assert len(list(thin(frames, fps))) == 400
