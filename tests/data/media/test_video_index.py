"""Display times of all pictures from the packets alone: those that were written, whatever rate the container claims.

Picture k is the k-th on display, or an error: a picture that is lost moves no other one.
"""

from __future__ import annotations

import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ingest_clips import WOVEN, comb, constant, make_clip, number_in, woven

from trocar.data.media import video_index as module
from trocar.data.media import video_index as video_index
from trocar.data.media.delivered_files import Limits, RejectError
from trocar.data.media.frame_conversion import to_rgb
from trocar.data.media.video_decode import Decoder
from trocar.data.media.video_index import make_index, numbered_pictures, read_index

B_FRAMES = {"preset": "fast", "crf": "12", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:threads=1"}
PLAIN = {"preset": "ultrafast", "crf": "12"}


def uneven(count: int, seed: int = 3) -> list[Fraction]:
    """Display times in whole centiseconds, from 20 ms to over a second apart."""
    rng, times = random.Random(seed), [Fraction(0)]
    while len(times) < count:
        times.append(times[-1] + Fraction(rng.choice([2, 4, 4, 4, 10, 40, 130]), 100))
    return times


def jittered(count: int) -> list[Fraction]:
    """25 a second, each up to 5 ms early or late."""
    return [Fraction(k, 25) + Fraction(random.Random(k).randint(-5, 5) if k else 0, 1000) for k in range(count)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("options", [PLAIN, B_FRAMES], ids=["plain", "b-frames"])
def test_times_are_those_that_were_written(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    times = uneven(60)
    index = make_index(make_clip(tmp_path / name, times, options=options, tick=Fraction(1, 1000)))
    assert len(index) == 60
    assert index.times == pytest.approx([float(time) for time in times], abs=1e-6)
    assert not index.counted


def test_the_rate_is_that_of_the_pictures_not_the_container_s_average(tmp_path: Path) -> None:
    index = make_index(make_clip(tmp_path / "a.mkv", jittered(200), tick=Fraction(1, 1000)))
    assert len(index) == 200
    assert index.fps == pytest.approx(25, abs=0.05)
    assert index.shown(range(8), 1.0).tolist() == pytest.approx([25 * k for k in range(8)], abs=1)


@pytest.mark.parametrize("fps", [1.0, 3.0, 29.97])
@pytest.mark.parametrize(
    ("name", "options", "times"),
    [
        ("a.mp4", PLAIN, uneven(50)),
        ("a.mkv", B_FRAMES, jittered(75)),
        ("a.avi", B_FRAMES, constant(25, 75)),
        ("a.ts", PLAIN, constant(25, 75)),
    ],
)
def test_the_picture_on_display_is_the_one_that_ingest_takes(
    tmp_path: Path, name: str, options: dict[str, str], times: list[Fraction], fps: float
) -> None:
    tick = Fraction(1, 25) if name == "a.avi" else Fraction(1, 1000)
    clip = make_clip(tmp_path / name, times, options=options, tick=tick)
    taken = [number_in(to_rgb(frame)) for _, frame in Decoder(clip, fps, Limits()).frames()]
    index = make_index(clip)
    ks = np.arange(len(taken))
    assert index.shown(ks, fps).tolist() == taken
    assert not index.ended(ks, fps).any()
    assert index.ended([len(taken)], fps).all()
    stored = (ks / fps).astype(np.float32)  # as a catalog has them
    assert index.at(stored.astype(np.float64) + np.spacing(stored)).tolist() == taken


def test_an_hour_in_the_numbers_of_a_catalog_still_finds_the_picture_of_each_time() -> None:
    ticks = np.arange(0, 90_000 * 3600 * 2, 3600, dtype=np.int64)  # two hours of 25 fps on the clock of a broadcast
    index = video_index.VideoIndex(ticks, Fraction(1, 90_000), int(ticks[-1]) + 3600, 0, 3600, False)
    ks = np.arange(0, 7200 * 30, 7)
    stored = (ks / 30).astype(np.float32)
    assert np.array_equal(index.at(stored.astype(np.float64) + np.spacing(stored)), index.shown(ks, 30.0))


def hole(path: Path) -> Path:
    return make_clip(path, [t if t < 4 else t + 3 for t in constant(25, 250)])


def cut_short(path: Path) -> Path:
    clip = make_clip(path, constant(25, 250), container_options={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * 0.7)])
    return clip


def without_some(path: Path) -> Path:
    """An AVI of which a demuxer loses a few pictures where their headers are overwritten."""
    clip = make_clip(
        path.with_suffix(".avi"), constant(25, 60), tick=Fraction(1, 25), options=B_FRAMES, gop=12, scale=2
    )
    data = bytearray(clip.read_bytes())
    at = len(data) // 2
    data[at : at + 200] = random.Random(0).randbytes(200)
    clip.write_bytes(data)
    return clip


@pytest.mark.parametrize("damage", [hole, cut_short, without_some])
def test_what_ingest_refuses_by_its_packets_has_no_index_in_the_same_words(tmp_path: Path, damage: object) -> None:
    clip = damage(tmp_path / "a.mp4")  # type: ignore[operator]
    with pytest.raises(RejectError) as ingest:
        list(Decoder(clip, 1.0, Limits()).frames())
    with pytest.raises(RejectError) as index:
        make_index(clip)
    assert index.value.reason == ingest.value.reason
    # What a decoder makes of the last packet may move the place by a picture or two.
    words = [re.sub(r"[0-9.]+", "#", error.value.detail.split("; --max")[0]) for error in (index, ingest)]
    assert words[0] == words[1]


def test_fields_that_are_packets_of_their_own_make_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.ts", constant(25, 60), tick=Fraction(1, 25))
    wanted = make_index(clip).ticks
    doubled = video_index._of_packets

    def of_fields(*arguments: object) -> tuple[list[int], int]:
        times, _ = doubled(*arguments)  # type: ignore[arg-type]
        return sorted([*times, *(time + 1800 for time in times)]), 1800

    monkeypatch.setattr(video_index, "_of_packets", of_fields)
    assert np.array_equal(make_index(clip).ticks, wanted)  # by the pictures that come out


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip whose index is kept on disk, and read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(video_index, "KEPT_FROM", 0)
    clip = make_clip(tmp_path / "a.mp4", uneven(40), tick=Fraction(1, 1000))
    video_index._kept.cache_clear()
    read_index(clip)
    video_index._kept.cache_clear()
    return clip


def test_a_kept_index_is_the_same_and_reads_no_packet(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = make_index(kept)
    monkeypatch.setattr(video_index, "make_index", lambda path: pytest.fail("read again"))
    found = read_index(kept)
    assert np.array_equal(found.ticks, wanted.ticks)
    for name in ("tick", "end", "first", "usual", "counted"):
        assert getattr(found, name) == getattr(wanted, name)


@pytest.mark.parametrize("change", ["file", "format", "damage"])
def test_an_index_of_another_file_or_format_or_a_damaged_one_is_not_used(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    count = 40
    if change == "file":
        make_clip(kept, constant(25, count := 30))
    elif change == "format":
        monkeypatch.setattr(video_index, "FORMAT", video_index.FORMAT + 1)
    else:
        for path in (tmp_path / "cache").rglob("*.npz"):
            path.write_bytes(path.read_bytes()[:-30])
    made = []
    real = make_index
    monkeypatch.setattr(video_index, "make_index", lambda path: made.append(path) or real(path))
    assert len(read_index(kept)) == count
    assert made == [kept]


def numbers(clip: Path, wanted: list[int]) -> list[tuple[int, int]]:
    """(number, the number that its picture shows)."""
    found = numbered_pictures(clip, make_index(clip), wanted)
    return [(k, number_in(to_rgb(frame))) for k, frame in found]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.wmv", "a.mpg", "a.webm"])
@pytest.mark.parametrize("wanted", [[0, 1, 2, 29, 30, 58, 59], [31], list(range(60))], ids=["some", "one", "all"])
def test_the_picture_of_a_number_shows_that_number(tmp_path: Path, name: str, wanted: list[int]) -> None:
    codec, options = {"mpg": ("mpeg2video", {"bf": "2"}), "webm": ("libvpx", {"auto-alt-ref": "1", "b": "800k"})}.get(
        name[2:], ("libx264", B_FRAMES)
    )
    clip = make_clip(tmp_path / name, constant(25, 60), codec=codec, options=options, tick=Fraction(1, 25), gop=12)
    assert numbers(clip, wanted) == [(k, k) for k in wanted]


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 60), options=B_FRAMES, gop=12)
    index = make_index(clip)
    monkeypatch.setattr(module._Reader, "every", lambda *_: pytest.fail("all pictures are decoded"))
    assert [k for k, _ in numbered_pictures(clip, index, [5, 50])] == [5, 50]


def test_a_picture_that_the_video_does_not_have_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 20))
    with pytest.raises(RejectError, match="20 pictures, picture 20 is asked for"):
        numbers(clip, [3, 20])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_damage_is_refused_or_moves_no_picture(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / name, constant(25, 60), tick=Fraction(1, 25), options=B_FRAMES, gop=12, scale=2)
    whole, refused, wanted = clip.read_bytes(), [], list(range(0, 60, 5))
    for seed in range(12):
        rng, data = random.Random(seed), bytearray(whole)
        at, length = rng.randrange(len(data) // 4, len(data) * 3 // 4), rng.choice([10, 200, 800])
        data[at : at + length] = rng.randbytes(length)
        clip.write_bytes(data)
        try:
            if len(index := make_index(clip)) < 60:
                # A demuxer that passes over a part says nothing, but the times do; at the end it moves no picture.
                assert index.skipped > 0 or np.allclose(index.times, np.arange(len(index)) / 25)
                continue
            found = numbers(clip, wanted)
        except RejectError as error:
            refused.append(error.reason)
            continue
        assert found == [(k, k) for k in wanted]
    assert refused
    assert set(refused) <= {"damaged", "truncated", "no timestamps"}


def test_a_picture_that_never_comes_out_of_the_decoder_is_named_by_its_time(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.ts", constant(25, 60), tick=Fraction(1, 25), codec="mpeg2video", options={"b": "2M"})
    index = make_index(clip)
    data = clip.read_bytes()
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    begins = [i for i, packet in enumerate(packets) if packet[1] & 0x40 and packet[1] & 0x1F == 1]
    # All transport packets of picture 20 are gone: its time is missing in the file, and all others are right.
    clip.write_bytes(b"".join(packets[: begins[20]] + packets[begins[21] :]))
    with pytest.raises(RejectError, match=r"damaged|did not come out"):
        list(numbered_pictures(clip, index, [30, 40]))


def test_interlaced_pictures_are_deinterlaced_whichever_are_wanted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", constant(25, 12), options=WOVEN, pictures=woven(12))
    index = make_index(clip)
    every = {k: to_rgb(frame) for k, frame in numbered_pictures(clip, index, range(12))}
    assert max(map(comb, every.values())) < 2.5
    for wanted in ([0], [5], [11], [0, 11]):
        some = {k: to_rgb(frame) for k, frame in numbered_pictures(clip, index, wanted)}
        assert list(some) == wanted
        assert all(np.array_equal(np.asarray(some[k]), np.asarray(every[k])) for k in wanted)
