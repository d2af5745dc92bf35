"""Which frames are taken, and that a damaged video is never shortened in silence."""

from __future__ import annotations

import bisect
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ingest_clips import SIZE, constant, make_clip, number_in, picture

from trocar.data.media.refusal import Limits, RejectError
from trocar.data.media.video_container import key_frames
from trocar.data.media.video_decode import Decoder
from trocar.data.media.video_picture import to_rgb


def walk(path: Path, fps: float = 1.0, **settings: float) -> tuple[list[float], list[int], Decoder]:
    decoder = Decoder(path, fps, Limits.model_validate(settings))
    frames = [(time, number_in(to_rgb(frame))) for time, frame in decoder.frames()]
    return [time for time, _ in frames], [number for _, number in frames], decoder


def rejected(path: Path, **settings: float) -> RejectError:
    with pytest.raises(RejectError) as caught:
        walk(path, **settings)
    return caught.value


def test_25_fps_gives_every_25th_frame(tmp_path: Path) -> None:
    times, numbers, decoder = walk(make_clip(tmp_path / "a.mp4", constant(25, 100)))
    assert times == [0, 1, 2, 3]
    assert numbers == [0, 25, 50, 75]
    assert decoder.duration_s == 4.0


def test_a_begun_second_counts(tmp_path: Path) -> None:
    assert walk(make_clip(tmp_path / "a.mp4", constant(25, 101)))[1] == [0, 25, 50, 75, 100]


def test_29_97_fps_does_not_drift(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    clip = make_clip(tmp_path / "a.mp4", constant(rate, 1800), tick=Fraction(1, 30000))
    times, numbers, _ = walk(clip)
    assert times == list(range(61))  # 1800 frames last 60.06 s
    assert numbers == [int(k * rate) for k in range(61)]
    assert numbers[60] == 1798  # counting 30 frames a second would be at 1800


def test_variable_frame_rate_takes_the_frame_on_display(tmp_path: Path) -> None:
    rng = random.Random(5)
    ticks = [0]
    while ticks[-1] < 12_000:
        ticks.append(ticks[-1] + rng.choice([17, 33, 40, 250, 900, 1400]))
    clip = make_clip(tmp_path / "a.mp4", [Fraction(t, 1000) for t in ticks], tick=Fraction(1, 1000))
    times, numbers, _ = walk(clip, fps=2)
    expected = [bisect.bisect_right(ticks, 500 * k + 1) - 1 for k in range(len(numbers))]
    assert times == [k / 2 for k in range(len(times))]
    assert numbers == expected
    assert times[-1] >= ticks[-1] / 1000 - 0.5


def test_timestamps_rounded_to_milliseconds_don_t_shift_the_choice(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", constant(30, 60), tick=Fraction(1, 1000))
    assert walk(clip, fps=3)[1] == [0, 10, 20, 30, 40, 50]


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mkv", [5 + t for t in constant(25, 75)], tick=Fraction(1, 1000))
    times, numbers, _ = walk(clip)
    assert times == [0, 1, 2]
    assert numbers == [0, 25, 50]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.ts", "libx264")])
def test_old_containers_give_the_same_frames(tmp_path: Path, name: str, codec: str) -> None:
    options = {"qscale": "2"} if codec != "libx264" else None
    clip = make_clip(tmp_path / name, constant(25, 100), codec=codec, tick=Fraction(1, 25), options=options)
    assert walk(clip)[1] == [0, 25, 50, 75]


def test_a_rotated_recording_is_turned_upright(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 5))
    data = bytearray(clip.read_bytes())
    # tkhd version 0: the matrix begins 40 bytes after the version; this one turns a quarter clockwise.
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = b"".join(
        v.to_bytes(4, "big", signed=True) for v in (0, 65536, 0, -65536, 0, 0, SIZE[1] << 16, 0, 1 << 30)
    )
    clip.write_bytes(data)
    ((_, frame),) = Decoder(clip, 1.0, Limits()).frames()
    turned = np.asarray(to_rgb(frame))
    assert turned.shape[:2] == (SIZE[0], SIZE[1])
    upright = np.rot90(picture(0), -1)
    assert np.abs(turned.astype(int) - upright).mean() < 8


def test_key_frames_are_spread_over_the_video(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 500), gop=25)
    numbers = [number_in(image) for image in key_frames(clip, Limits(), 5)]
    assert len(numbers) == 5
    assert numbers[0] <= 50
    assert numbers[-1] >= 400


def test_zero_bytes_and_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("../videos/video01.mp4\n")
    assert rejected(tmp_path / "zero.mp4").reason == "empty file"
    text = rejected(tmp_path / "text.mp4")
    assert text.reason == "not a video"
    assert "a text file: '../videos/video01.mp4" in text.detail


@pytest.mark.parametrize("script", ["ffconcat version 1.0\nfile a.mp4\n", "#EXTM3U\n#EXTINF:4,\na.mp4\n"])
def test_a_playlist_never_opens_other_files(tmp_path: Path, script: str) -> None:
    make_clip(tmp_path / "a.mp4", constant(25, 100))
    (tmp_path / "list.mp4").write_text(script)
    assert rejected(tmp_path / "list.mp4").reason == "not a video"


def test_a_truncated_file_without_its_index_is_rejected(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 100))
    clip.write_bytes(clip.read_bytes()[:-400])
    assert rejected(clip).reason == "truncated"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_with_its_index_in_front_is_rejected(tmp_path: Path, share: float) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 250), container_options={"movflags": "faststart"})
    data = clip.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    clip.write_bytes(data[: int(len(data) * share)])
    error = rejected(clip)
    assert error.reason in ("truncated", "damaged")
    assert " s" in error.detail


@pytest.mark.parametrize("junk", ["zeros", "noise"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_broken_middle_is_rejected(tmp_path: Path, junk: str, name: str) -> None:
    clip = make_clip(tmp_path / name, constant(25, 250), scale=2)
    data = bytearray(clip.read_bytes())
    at, length = len(data) // 2, len(data) // 10
    data[at : at + length] = bytes(length) if junk == "zeros" else random.Random(1).randbytes(length)
    clip.write_bytes(data)
    error = rejected(clip)
    assert error.reason in ("damaged", "truncated")
    assert "first: " in error.detail or "breaks off" in error.detail


def test_damage_can_be_accepted_by_number(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 250), scale=2)
    data = bytearray(clip.read_bytes())
    at = len(data) // 2
    data[at : at + 600] = random.Random(1).randbytes(600)
    clip.write_bytes(data)
    error = rejected(clip)
    count = int(error.detail.split()[0])
    assert f"--max-damaged {count} would accept it" in error.detail
    times, _, decoder = walk(clip, max_damaged=count)
    assert times == list(range(10))
    assert decoder.damage.frames == count
    assert rejected(clip, max_damaged=count - 1).reason == "damaged"


def test_limits_reject_before_decoding(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 100))
    assert rejected(clip, max_pixels=SIZE[0] * SIZE[1] - 1).reason == "too many pixels"
    assert rejected(clip, max_hours=3 / 3600).reason == "too long"
    assert walk(clip, max_pixels=SIZE[0] * SIZE[1], max_hours=4 / 3600)[0] == [0, 1, 2, 3]
