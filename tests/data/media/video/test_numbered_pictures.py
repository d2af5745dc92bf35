"""Picture k is the k-th on display, or an error: a picture that is lost moves no other one."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ingest_clips import WOVEN, comb, constant, make_clip, number_in, woven

from trocar.data.media.input_file import RejectError
from trocar.data.media.video import numbered_pictures as module
from trocar.data.media.video.frame_conversion import to_rgb
from trocar.data.media.video.index import make_index
from trocar.data.media.video.numbered_pictures import numbered_pictures

B_FRAMES = {"preset": "fast", "crf": "12", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:threads=1"}


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
