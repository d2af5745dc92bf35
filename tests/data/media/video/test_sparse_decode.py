"""Leaving pictures undecoded changes neither the frames chosen nor one of their pixels."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from ingest_clips import constant, make_clip

from trocar.data.media.input_file import Limits, RejectError
from trocar.data.media.video.container import demux, open_video
from trocar.data.media.video.decode import Decoder
from trocar.data.media.video.packet_roles import Irregular, Role, role_reader
from trocar.data.media.video.sparse_decode import SparseDecode
from trocar.data.media.video.timeline import SampleTimes

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
