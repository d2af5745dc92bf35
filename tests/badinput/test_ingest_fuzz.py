"""Broken and odd input of every kind: each file is rejected with a reason or stored as what it shows, none is lost."""

from __future__ import annotations

import io
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_media import (
    DAMAGES,
    decoded,
    jpeg_bomb,
    off,
    on_display,
    png_bomb,
    raw_video,
    rotate_metadata,
    saved,
    scene,
    turned,
)
from ingest_clips import constant, make_clip, picture, stored
from PIL import Image, ImageFile

from trocar.data.catalog import Catalog
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest
from trocar.data.ingest.settings import IngestSettings

KEEP = IngestSettings(short_side=None, crop="none", fps=5, jpeg_quality=95)
JPEG_OFF = 4.0  # mean of 255: sources are JPEGs as well, and a second one rounds again


def as_jpeg(image: Image.Image | np.ndarray) -> Image.Image:
    """What is left of a picture in a JPEG as ingest writes it, by Pillow alone."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return Image.open(io.BytesIO(saved(picture, quality=95, subsampling="4:2:0"))).convert("RGB")


def ingest(folder: Path, out: Path, settings: IngestSettings = KEEP, **options: Any) -> tuple[Catalog, dict[str, str]]:
    """The catalog, and the reason of each rejected path by its last part."""
    options = {"sources": (folder,), "out": out, "settings": settings, **options}
    run_ingest(IngestOptions(**options), lambda line: None, lambda *_: None)
    catalog = Catalog.open(out)
    return catalog, {Path(row["path"]).name: row["reason"] for row in catalog.rejected().to_pylist()}


def ingest_images(
    folder: Path, files: dict[str, bytes], **settings: Any
) -> tuple[dict[int, Image.Image], dict[str, str]]:
    """Frame number -> stored picture, and the reason of each rejected file; files are `000.jpg` and so on."""
    (folder / "in" / "v").mkdir(parents=True)
    for name, content in files.items():
        (folder / "in" / "v" / name).write_bytes(content)
    catalog, rejected = ingest(
        folder / "in",
        folder / "out",
        KEEP.model_copy(update={"fps": 1.0, **settings}),
        frames=r"(?P<number>\d+).*",
        frames_fps=1.0,
        first_number=0,
    )
    found = stored(catalog, "v") if catalog.videos.num_rows else []
    return {round(time): image for time, image in found}, rejected


def pillow_decodes(data: bytes) -> Image.Image | None:
    """What the reference decoder makes of these bytes; None where it refuses them."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            return image.convert("RGB") if image.getexif().get(0x0112, 1) == 1 else None
    except Exception:
        return None


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["baseline", "progressive", "png"])
def test_a_damaged_image_is_rejected_or_is_what_it_decodes_to(tmp_path: Path, kind: str, damage: Any) -> None:
    rng = random.Random(f"{kind}{damage.__name__}")
    options = {"subsampling": "4:2:0", "progressive": kind == "progressive", "quality": 95}
    whole = saved(scene(), "PNG") if kind == "png" else saved(scene(), **options)
    files = {f"{i:03d}.jpg": damage(whole, rng) for i in range(1, 40)} | {"000.jpg": whole}
    shown, rejected = ingest_images(tmp_path, files, max_pixels=10**6)
    assert sorted([*(f"{number:03d}.jpg" for number in shown), *rejected]) == sorted(files)
    assert off(shown[0], scene()) < JPEG_OFF
    for number, image in shown.items():
        reference = pillow_decodes(files[f"{number:03d}.jpg"])
        assert reference is not None, number
        assert off(image, as_jpeg(reference)) < JPEG_OFF, number
    assert rejected
    assert "unexpected error" not in rejected.values()


def test_odd_images_are_stored_as_they_are_seen(tmp_path: Path) -> None:
    image, grey = scene(), scene().convert("L")
    alpha = scene().convert("RGBA")
    alpha.putalpha(200)
    odd = {
        "grey": (saved(grey, quality=95), grey.convert("RGB")),
        "cmyk": (saved(image.convert("CMYK"), quality=95), image),
        "progressive": (saved(image, quality=95, progressive=True), image),
        "4:4:4": (saved(image, quality=95, subsampling="4:4:4"), image),
        "palette": (saved(image.convert("P"), "PNG"), image.convert("P").convert("RGB")),
        "one bit": (saved(grey.convert("1"), "PNG"), grey.convert("1").convert("RGB")),
        "alpha": (saved(alpha, "PNG"), image),
        "bmp": (saved(image, "BMP"), image),
        "tiff": (saved(image, "TIFF", compression="tiff_lzw"), image),
        "webp": (saved(image, "WEBP", lossless=True), image),
        "icc and comment": (saved(image, quality=95, icc_profile=b"x" * 200, comment=b"patient"), image),
        "animated": (saved(image, "WEBP", save_all=True, append_images=[grey.convert("RGB")], lossless=True), image),
        "16 x 16": (saved(scene((16, 16)), "PNG"), scene((16, 16))),
        "1 x 1": (saved(scene((1, 1)), "PNG"), scene((1, 1))),
        "odd sides": (saved(scene((97, 61)), "PNG"), scene((97, 61))),
    }
    transposes = {o: Image.Transpose(t) for o, t in ((2, 0), (3, 3), (4, 1), (5, 5), (6, 4), (7, 6), (8, 2))}
    for orientation, transpose in transposes.items():
        odd[f"exif {orientation}"] = (turned(image, orientation), image.transpose(transpose))
    shown, rejected = ingest_images(tmp_path, {f"{i:03d}.jpg": data for i, (data, _) in enumerate(odd.values())})
    assert rejected == {}
    wrong = {
        name: found
        for i, (name, (_, wanted)) in enumerate(odd.items())
        if (found := off(shown[i], as_jpeg(wanted))) >= JPEG_OFF
    }
    assert wrong == {}


def test_what_is_no_picture_for_us_is_named_by_its_reason(tmp_path: Path) -> None:
    files = {
        "000.jpg": saved(scene()),
        "001.jpg": b"",
        "002.jpg": b"../frames/000001.jpg",  # what a symbolic link becomes in an archive without them
        "003.jpg": png_bomb(60_000, 60_000),
        "004.jpg": png_bomb(7_000, 6_000),
        "005.jpg": jpeg_bomb(65_000, 65_000),
        "006.jpg": png_bomb(70_000, 10),
        "007.png": saved(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"),
        "008.jpg": bytes(range(128, 228)),
        "009.jpg": saved(scene())[:20],
        "010.jpg": b"\xff\xd8\xff\xd9",
        "011.jpg": saved(scene(), "GIF"),
        "012.jpg": b"\x89PNG\r\n\x1a\n" + bytes(10),
    }
    (tmp_path / "in" / "v").mkdir(parents=True)
    (tmp_path / "in" / "v" / "013.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "in" / "v" / "014.jpg").symlink_to("014.jpg")
    for name, content in files.items():
        (tmp_path / "in" / "v" / name).write_bytes(content)
    options = {"frames": r"(?P<number>\d+).*", "frames_fps": 1.0, "first_number": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog, rejected = ingest(tmp_path / "in", tmp_path / "out", **options)
    assert len(catalog) == 1
    assert rejected == {
        "001.jpg": "empty file",
        "002.jpg": "not an image",
        "003.jpg": "too many pixels",
        "004.jpg": "too many pixels",
        "005.jpg": "too many pixels",
        "006.jpg": "too many pixels",
        "007.png": "unsupported image",
        "008.jpg": "undecodable image",
        "009.jpg": "undecodable image",
        "010.jpg": "undecodable image",
        "011.jpg": "undecodable image",
        "012.jpg": "undecodable image",
        "013.jpg": "unreadable",
        "014.jpg": "unreadable",
    }


def test_an_image_file_longer_than_any_picture_within_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "in" / "v").mkdir(parents=True)
    (tmp_path / "in" / "v" / "0.jpg").write_bytes(saved(scene()))
    with (tmp_path / "in" / "v" / "1.tif").open("wb") as file:
        file.truncate(1 << 40)  # a tebibyte of nothing, without taking it on the disk
    settings = KEEP.model_copy(update={"fps": 1.0})
    options = {"frames": r"(?P<number>\d+).*", "frames_fps": 1.0, "first_number": 0}
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out", settings, **options)
    assert len(catalog) == 1
    assert rejected == {"1.tif": "too many pixels"}


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


def test_names_with_blanks_dots_and_letters_of_any_script(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    whole = make_clip(tmp_path / "whole.mp4", constant(25, 5)).read_bytes()
    names = [
        "case 7.1.final.mp4",
        "Björn Å.mp4",
        "手術.mp4",
        "手術2.mp4",
        "-rf.mp4",
        "a'b\"c;d$(e).mp4",
        "new\nline.mp4",
    ]
    names.append(os.fsdecode(b"latin-\xe9.mp4"))
    for name in names:
        (tmp_path / "in" / name).write_bytes(whole)
    (tmp_path / "in" / "gone.mp4").symlink_to("/nowhere/at/all.mp4")
    (tmp_path / "in" / os.fsdecode(b"bad-\xff.mp4")).write_bytes(b"no video \xff\xfe")
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    found = catalog.videos["name"].to_pylist()
    assert len(set(found)) == len(names)
    assert {"case_7_1_final", "a_b_c_d_e", "new_line"} <= set(found)
    assert all(len(stored(catalog, name)) == 1 for name in found)
    assert rejected == {"gone.mp4": "unreadable", "bad-\\xff.mp4": "not a video"}


def test_rejections_of_one_source_outlive_the_ingest_of_another_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_clip(tmp_path / name / f"good_{name}.mp4", constant(25, 5))
    (tmp_path / "a" / "bad.mp4").write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    ingest(Path("a"), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "b")
    _, rejected = ingest(Path(), tmp_path / "out")
    assert rejected == {"bad.mp4": "not a video"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "bad.mp4").unlink()
    assert ingest(Path("a"), tmp_path / "out")[1] == {}


def test_images_that_the_pattern_passes_over_are_counted_aloud(tmp_path: Path) -> None:
    (tmp_path / "in" / "v").mkdir(parents=True)
    for name in ("000.jpg", "001.jpg", "001 (copy).jpg", "readme.txt"):
        (tmp_path / "in" / "v" / name).write_bytes(saved(scene()))
    said: list[str] = []
    options = {"frames": "{number:03d}.jpg", "frames_fps": 1.0, "first_number": 0, "settings": KEEP}
    run_ingest(IngestOptions(sources=(tmp_path / "in",), out=tmp_path / "out", **options), said.append, lambda *_: None)
    (warning,) = [line for line in said if "do not match" in line]
    assert "1 images" in warning
    assert "001 (copy).jpg" in warning


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


def crash(job: Any) -> Any:
    """Stands in for a decoder that takes its process down."""
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_video_that_ended_an_ingest_of_one_process_is_rejected_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trocar.data.ingest import pool

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make_clip(tmp_path / "in" / f"{name}.mp4", constant(25, 5))
    (tmp_path / "out" / "tmp" / "a").mkdir(parents=True)  # what is left by a process that died while decoding a
    alone: list[str] = []
    pooled = pool._pooled

    def dies(jobs: Any, workers: int) -> Any:
        alone.extend(job.name for job in jobs)
        monkeypatch.setattr(pool, "ingest", crash)
        try:
            yield from pooled(jobs, workers)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(pool, "_pooled", dies)
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    assert alone == ["a"]
    assert catalog.videos["name"].to_pylist() == ["b"]
    assert rejected == {"a.mp4": "decoder crashed"}
