"""Broken and odd videos: each is rejected with a reason or stored as what it shows, none is lost."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_factory import JPEG_OFF, KEEP, as_jpeg, ingest
from hostile_media import (
    DAMAGES,
    decoded,
    off,
    on_display,
    raw_video,
    rotate_metadata,
    scene,
)
from ingest_clips import constant, make_clip, picture, stored
from PIL import Image


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.ts", "mpeg2video")]
)
def test_a_damaged_video_is_rejected_or_shows_what_it_decodes_to(tmp_path: Path, name: str, codec: str) -> None:
    rng = random.Random(name)
    (tmp_path / "in").mkdir()
    whole = make_clip(tmp_path / name, constant(25, 30), codec=codec, gop=10, options={}, tick=constant(25, 2)[1])
    stem, ending = name.split(".")
    files = {}
    for i in range(24):
        files[f"{stem}{i:02d}"] = tmp_path / "in" / f"{stem}{i:02d}.{ending}"
        files[f"{stem}{i:02d}"].write_bytes(DAMAGES[i % 3](whole.read_bytes(), rng))
    files["whole"] = tmp_path / "in" / f"whole.{ending}"
    files["whole"].write_bytes(whole.read_bytes())
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    done = catalog.videos["name"].to_pylist()
    assert sorted([*done, *(Path(file).stem for file in rejected)]) == sorted(files)
    assert "whole" in done
    assert "unexpected error" not in rejected.values()
    for video in done:
        pictures = decoded(files[video])
        for time, image in stored(catalog, video):
            assert off(image, as_jpeg(on_display(pictures, time))) < JPEG_OFF, (video, time)


FORMATS = (
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv420p10le",
    "yuv422p10le",
    "yuva420p",
    "gray",
    "gray10le",
    "bgr0",
    "gbrp10le",
)


def test_pixel_formats_of_every_kind_come_out_as_they_look(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for pixel_format in FORMATS:
        raw_video(tmp_path / "in" / f"{pixel_format}.mkv", 2, (96, 64), pixel_format)
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert rejected == {}
    wrong = {}
    for pixel_format in FORMATS:
        for i, (_, image) in enumerate(stored(catalog, pixel_format)):
            wanted = scene((96, 64), i)
            wanted = wanted.convert("L").convert("RGB") if pixel_format.startswith("gray") else wanted
            if off(image, wanted) >= JPEG_OFF:
                wrong[pixel_format] = off(image, wanted)
    assert wrong == {}


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (17, 33), (7680, 4320)])
def test_tiny_and_8k_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "in").mkdir()
    raw_video(tmp_path / "in" / "a.mkv", 1, size, codec="ffv1" if size[0] < 100 else "mpeg4")
    settings = KEEP.model_copy(update={"short_side": 256, "crop": "auto"})
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out", settings)
    assert rejected == {}
    ((_, image),) = stored(catalog, "a")
    assert image.size == (size if size[1] < 256 else (455, 256))
    wanted = scene(size).resize(image.size, Image.Resampling.BICUBIC)
    # The video halves the resolution of colour before the JPEG does; a line lost at an odd side makes 14.
    assert off(image, as_jpeg(wanted)) < 2 * JPEG_OFF


def test_a_frame_beyond_the_limit_is_rejected_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    raw_video(tmp_path / "in" / "a.mkv", 1, (96, 64))
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out", KEEP.model_copy(update={"max_pixels": 96 * 64 - 1}))
    assert len(catalog) == 0
    assert rejected == {"a.mkv": "too many pixels"}


@pytest.mark.parametrize("quarter", range(4))
def test_rotation_metadata_is_applied_with_and_without_a_mask(tmp_path: Path, quarter: int) -> None:
    (tmp_path / "in").mkdir()
    clip = make_clip(tmp_path / "in" / "a.mp4", constant(25, 5), numbers=[0b101101] * 5)
    rotate_metadata(clip, quarter)
    upright = np.rot90(picture(0b101101), -quarter)
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert rejected == {}
    ((_, image),) = stored(catalog, "a")
    assert off(image, upright) < 8
    (tmp_path / "masks.yaml").write_text("in: [[0, 0, 10, 6]]\n")
    catalog, _ = ingest(tmp_path / "in", tmp_path / "masked", masks=tmp_path / "masks.yaml")
    masked = np.array(upright)
    masked[:6, :10] = 0
    assert off(stored(catalog, "a")[0][1], masked) < 8


def test_videos_of_no_and_of_one_frame(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for ending, codec in (("mp4", "libx264"), ("mkv", "ffv1"), ("avi", "mpeg4")):
        make_clip(tmp_path / "in" / f"one_{ending}.{ending}", constant(25, 1), codec=codec, options={})
    with av_without_frames(tmp_path / "in" / "none.mp4"):
        pass
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert set(catalog.videos["name"].to_pylist()) == {"one_mp4", "one_mkv", "one_avi"}
    assert catalog.videos["rows"].to_pylist() == [1, 1, 1]
    assert all(off(stored(catalog, name)[0][1], picture(0)) < 8 for name in catalog.videos["name"].to_pylist())
    assert set(rejected) == {"none.mp4"}


def av_without_frames(path: Path) -> Any:
    import av

    container = av.open(str(path), "w")
    stream = container.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
    container.start_encoding()
    return container


def crash(job: Any) -> Any:
    """Stands in for a decoder that takes its process down."""
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize("error", [KeyError("surprise"), MemoryError(), RecursionError("deep")])
def test_whatever_a_decoder_raises_costs_its_own_video_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from trocar.data.ingest import video

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "in" / f"{name}.mp4", constant(25, 5))
    run = video._VideoIngest.run

    def fail_on_a(self: Any) -> Any:
        if self.job.name == "a":
            raise error
        return run(self)

    monkeypatch.setattr(video._VideoIngest, "run", fail_on_a)
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert catalog.videos["name"].to_pylist() == ["b"]
    assert rejected == {"a.mp4": "out of memory" if isinstance(error, MemoryError) else "unexpected error"}


def test_a_video_that_ended_an_ingest_of_one_process_is_rejected_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trocar.data.ingest import jobs as module

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "in" / f"{name}.mp4", constant(25, 5))
    (tmp_path / "out" / "tmp" / "a").mkdir(parents=True)  # what is left by a process that died while decoding a
    alone: list[str] = []
    pooled = module._pooled

    def dies(jobs: Any, workers: int) -> Any:
        alone.extend(job.name for job in jobs)
        monkeypatch.setattr(module, "_run", crash)
        try:
            yield from pooled(jobs, workers)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(module, "_pooled", dies)
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert alone == ["a"]
    assert catalog.videos["name"].to_pylist() == ["b"]
    assert rejected == {"a.mp4": "decoder crashed"}
