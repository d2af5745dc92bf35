"""Leaving pictures undecoded changes neither the frames chosen nor one of their pixels.

Which frames are taken, and that a damaged video is never shortened in silence.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from ingest_clips import (
    SIZE,
    WOVEN,
    comb,
    constant,
    make_clip,
    number_in,
    picture,
    set_display_matrix,
    shown_by_matrix,
    woven,
)

from trocar.data.media.delivered_files import Limits, RejectError
from trocar.data.media.every_picture import SampleTimes
from trocar.data.media.frame_conversion import to_rgb
from trocar.data.media.video_container import Irregular, Role, demux, key_frames, open_video, role_reader
from trocar.data.media.video_decode import Decoder, SparseDecode

PYRAMID = {"preset": "fast", "crf": "20", "x264-params": "bframes=3:b-pyramid=normal:scenecut=0:threads=1"}


def chosen(path: Path, fps: float, sparse: bool | None, threads: int = 1) -> list[tuple[float, int | None, int]]:
    """(time, timestamp, checksum of the pixels) of what a walk gives; `sparse` None is the walk that ingest does."""
    decoder = Decoder(path, fps, Limits(), threads)
    frames = decoder.frames() if sparse is None else decoder._walk(sparse)
    return [(time, frame.pts, zlib.crc32(frame.to_ndarray().tobytes())) for time, frame in frames]


def decoded(path: Path, fps: float) -> list[bool]:
    """For each picture of a video in order of display, whether it was decoded."""
    with open_video(path) as (container, stream):
        times = SampleTimes(fps, stream.time_base)
        return [frame is not None for _, frame in SparseDecode(stream, demux(container, stream), times).frames()]


def roles(path: Path) -> list[Role]:
    with open_video(path) as (container, stream):
        read = role_reader(stream.codec_context.codec.canonical_name, stream.codec_context.extradata)
        assert read is not None
        return [read(memoryview(packet)) for packet in demux(container, stream) if packet.size]


@pytest.mark.parametrize("fps", [1.0, 5 / 3, 0.3, 25.0])
@pytest.mark.parametrize(("gop", "name"), [(250, "a.mp4"), (12, "a.mp4"), (25, "a.mkv"), (30, "a.ts")])
def test_the_frames_are_those_of_a_full_decode(tmp_path: Path, gop: int, name: str, fps: float) -> None:
    tick = Fraction(1, 1000) if name.endswith("mkv") else Fraction(1, 12800)
    clip = make_clip(tmp_path / name, constant(25, 110), gop=gop, options=PYRAMID, tick=tick)
    assert chosen(clip, fps, sparse=True) == chosen(clip, fps, sparse=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(tmp_path: Path, threads: int) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 110), gop=40, options=PYRAMID)
    assert chosen(clip, 0.7, sparse=True, threads=threads) == chosen(clip, 0.7, sparse=False)


def test_a_variable_frame_rate_gives_the_frames_of_a_full_decode(tmp_path: Path) -> None:
    times, now = [], 0
    for i in range(90):
        times.append(Fraction(now, 1000))
        now += (17, 33, 40, 250, 900)[i * 7 % 5]
    clip = make_clip(tmp_path / "a.mp4", times, gop=20, options=PYRAMID, tick=Fraction(1, 1000))
    assert chosen(clip, 2.0, sparse=True) == chosen(clip, 2.0, sparse=False)


OTHERS = {
    "open_gop": ("a.mp4", "libx264", {"preset": "fast", "x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    "intra_refresh": ("a.mp4", "libx264", {"preset": "fast", "x264-params": "intra-refresh=1:bframes=0"}),
    "interlaced": ("a.mp4", "libx264", {"preset": "fast", "x264-params": "tff=1:bframes=2"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"qscale": "2", "bf": "2"}),
    "mpeg4": ("a.avi", "mpeg4", {"qscale": "2"}),
    "mjpeg": ("a.avi", "mjpeg", {"qscale": "2"}),
    "hevc": ("a.mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:pools=none"}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_whatever_the_stream_is_the_frames_are_those_of_a_full_decode(tmp_path: Path, kind: str) -> None:
    name, codec, options = OTHERS[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    tick = Fraction(1, 25) if not name.endswith("mp4") else Fraction(1, 12800)
    if codec == "mjpeg":
        options = {**options, "strict": "-1"}
    clip = make_clip(tmp_path / name, constant(25, 80), gop=15, codec=codec, options=options, tick=tick)
    assert chosen(clip, 1.5, sparse=None) == chosen(clip, 1.5, sparse=False)


def test_a_sparse_rate_decodes_only_the_groups_of_pictures_that_are_looked_at(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 300), gop=10, options=PYRAMID)
    work = decoded(clip, 0.25)
    # At 0, 4 and 8 s a picture is wanted, which begins a group, and the last of all.
    assert [i for i, done in enumerate(work[:290]) if done] == [0, 100, 200]
    assert work[299]


def test_pictures_that_nothing_is_predicted_from_are_left_out(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 100), gop=250, options=PYRAMID)
    disposable = roles(clip).count(Role.DISPOSABLE)
    assert disposable > 30
    assert 100 - disposable <= sum(decoded(clip, 1.0)) <= 100 - disposable + 5


def break_picture(clip: Path, wrong: Callable[[list[Role]], int]) -> None:
    """Overwrite the end of one packet, chosen by the roles of all, with noise that breaks no headers."""
    with open_video(clip) as (container, stream):
        packets = [(packet.pos, packet.size) for packet in demux(container, stream) if packet.size]
    position, size = packets[wrong(roles(clip))]
    data = bytearray(clip.read_bytes())
    data[position + size // 2 : position + size] = bytes((37 * i) % 251 + 1 for i in range(size - size // 2))
    clip.write_bytes(data)


def test_damage_in_a_picture_that_no_stored_one_needs_is_not_looked_for(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 100), gop=250, options=PYRAMID, scale=2)
    whole = chosen(clip, 1.0, sparse=None)
    break_picture(clip, lambda roles: max(i for i, role in enumerate(roles[:60]) if role is Role.DISPOSABLE))
    assert chosen(clip, 1.0, sparse=None) == whole


def test_damage_in_a_picture_that_a_stored_one_needs_is_found(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 100), gop=250, options=PYRAMID, scale=2)
    break_picture(clip, lambda roles: max(i for i, role in enumerate(roles[:60]) if role is Role.REFERENCE))
    with pytest.raises(RejectError) as caught:
        chosen(clip, 1.0, sparse=None)
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("fps", [1.0, 29.97, 0.1, 240.0])
@pytest.mark.parametrize("tick", [Fraction(1, 12800), Fraction(1, 25), Fraction(1, 1000), Fraction(1001, 30000)])
def test_a_picture_is_wanted_if_a_sample_time_falls_on_it(fps: float, tick: Fraction) -> None:
    times = SampleTimes(fps, tick)
    due = [times.due(k) for k in range(2000)]
    assert due == sorted(due)
    for begin, end in [(0, 1), (0, 512), (1, 2), (5, 9), (12799, 12801), (12800, 12801), (12802, 12803), (30, 31)]:
        if end < due[-1]:
            assert times.within(begin, end) == any(begin <= tick < end for tick in due)


AVCC = bytes.fromhex("0164001effe10019")


def unit(*heads: int) -> memoryview:
    return memoryview(b"".join((3).to_bytes(4, "big") + bytes([head, 1, 2]) for head in heads))


@pytest.mark.parametrize(
    ("heads", "role"),
    [
        ((0x65,), Role.RESTART),
        ((0x06, 0x65, 0x65), Role.RESTART),
        ((0x41,), Role.REFERENCE),
        ((0x01, 0x21), Role.REFERENCE),
        ((0x09, 0x06, 0x01, 0x01), Role.DISPOSABLE),
    ],
)
def test_roles_of_h264_pictures(heads: tuple[int, ...], role: Role) -> None:
    read = role_reader("h264", AVCC)
    assert read is not None
    assert read(unit(*heads)) is role


@pytest.mark.parametrize(
    "packet",
    [
        unit(0x41)[:-1],
        unit(0x06),
        unit(0xC1),
        unit(0x05),
        memoryview(bytes(9)),
        memoryview(b"\xff" * 9),
        unit(0x67, 0x41),
    ],
    ids=["cut off", "no picture", "forbidden bit", "IDR of no importance", "zeros", "ones", "parameters in between"],
)
def test_what_is_not_well_formed_is_decoded_whole(packet: memoryview) -> None:
    read = role_reader("h264", AVCC)
    assert read is not None
    with pytest.raises(Irregular):
        read(packet)


def test_a_codec_whose_packets_are_not_read_is_decoded_whole() -> None:
    assert role_reader("vp9", None) is None
    assert role_reader("mpeg2video", None) is None


UNIT = (1 << 16, -(1 << 16))
EIGHT = [(a, 0, 0, d) for a, d in itertools.product(UNIT, UNIT)]
EIGHT += [(0, b, c, 0) for b, c in itertools.product(UNIT, UNIT)]


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


@pytest.mark.parametrize("matrix", EIGHT)
def test_a_recording_is_shown_as_its_display_matrix_says(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 5), numbers=[0b101101] * 5)
    set_display_matrix(clip, *matrix)
    ((_, frame),) = Decoder(clip, 1.0, Limits()).frames()
    found, wanted = np.asarray(to_rgb(frame)).astype(int), shown_by_matrix(picture(0b101101), *matrix)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 8


def test_a_matrix_that_turns_by_a_part_of_a_quarter_is_rejected_and_one_of_zeros_ignored(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 5))
    set_display_matrix(clip, 56756, 32768, -32768, 56756)  # 30 degrees
    assert rejected(clip).reason == "unsupported rotation"
    set_display_matrix(clip, 0, 0, 0, 0)
    assert walk(clip)[1] == [0]


B_FRAMES = {"preset": "fast", "crf": "12", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:threads=1"}


@pytest.mark.parametrize("name", ["a.avi", "a.wmv"])
@pytest.mark.parametrize("fps", [1.0, 5.0, 12.5])
def test_without_display_times_pictures_are_counted_in_order_of_display(tmp_path: Path, name: str, fps: float) -> None:
    clip = make_clip(tmp_path / name, constant(25, 60), tick=Fraction(1, 25), options=B_FRAMES, gop=12)
    times, numbers, decoder = walk(clip, fps=fps)
    assert times == [k / fps for k in range(len(times))]
    assert numbers == [int(k * 25 / fps) for k in range(math.ceil(60 / 25 * fps))]
    assert decoder.duration_s == pytest.approx(2.4)
    assert decoder.damage.frames == 0
    kind = name[2:].upper().replace("WMV", "ASF")
    assert decoder.notes == (f"{kind} files have no display times: pictures were counted, at 25 frames per second",)


@pytest.mark.parametrize("options", [B_FRAMES, {"preset": "ultrafast", "crf": "12"}], ids=["b-frames", "plain"])
def test_damage_in_an_avi_moves_no_other_picture_in_time(tmp_path: Path, options: dict[str, str]) -> None:
    clip = make_clip(tmp_path / "a.avi", constant(25, 60), tick=Fraction(1, 25), options=options, gop=12, scale=2)
    whole, reasons = clip.read_bytes(), []
    for seed in range(10):
        rng, data = random.Random(seed), bytearray(whole)
        at, length = rng.randrange(2000, len(data) - 3000), rng.choice([20, 200, 800])
        data[at : at + length] = rng.randbytes(length)
        clip.write_bytes(data)
        try:
            _, numbers, decoder = walk(clip, fps=25, max_damaged=1000)
        except RejectError as error:
            reasons.append(error.detail.partition(" pictures ")[2])
            continue
        wrong = [k // 12 for k, number in enumerate(numbers) if k != number]
        assert len(numbers) == 60
        assert len(set(wrong)) <= 1  # in the group of pictures that was hit
        assert decoder.damage.frames > 0 or not wrong
    assert any("did not come out of the decoder" in reason for reason in reasons)
    assert any("files do not say where they are missing" in reason for reason in reasons)


def test_an_avi_with_b_frames_that_leaves_pictures_out_is_rejected(tmp_path: Path) -> None:
    times = [Fraction(i, 25) for i in (*range(20), *range(30, 60))]
    clip = make_clip(tmp_path / "a.avi", times, tick=Fraction(1, 25), options=B_FRAMES)
    assert rejected(clip, max_damaged=1000).reason == "no timestamps"
    plain = make_clip(tmp_path / "b.avi", times, tick=Fraction(1, 25), codec="mpeg4", options={"qscale": "2"})
    # Where nothing is reordered it is known where they are missing.
    assert walk(plain, fps=5)[1] == [0, 5, 10, 15, 19, 19, 20, 25, 30, 35, 40, 45]


@pytest.mark.parametrize("fps", [1.0, 25.0])
def test_frames_that_are_marked_interlaced_are_deinterlaced(tmp_path: Path, fps: float) -> None:
    pictures = woven(30)
    clip = make_clip(tmp_path / "a.mp4", constant(25, 30), options=WOVEN, pictures=pictures)
    decoder = Decoder(clip, fps, Limits())
    found = [to_rgb(frame) for _, frame in decoder.frames()]
    assert decoder.notes == ("interlaced frames were deinterlaced (bwdif)",)
    assert len(found) == math.ceil(30 / 25 * fps)
    assert min(map(comb, pictures)) > 5
    assert max(map(comb, found)) < 2.5


def test_a_progressive_video_keeps_its_pixels(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 30), pictures=woven(30), options={"crf": "12"})
    decoder = Decoder(clip, 25.0, Limits())
    found = [frame.to_ndarray() for _, frame in decoder.frames()]
    with av.open(str(clip)) as container:
        coded = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert all(map(np.array_equal, found, coded))
    assert decoder.notes == ()


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
