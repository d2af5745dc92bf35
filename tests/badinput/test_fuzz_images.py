"""Broken and odd images: each is rejected with a reason or stored as what it shows, none is lost."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_factory import JPEG_OFF, KEEP, as_jpeg, ingest, ingest_images, pillow_decodes
from hostile_media import (
    DAMAGES,
    jpeg_bomb,
    off,
    png_bomb,
    saved,
    scene,
    turned,
)
from PIL import Image

from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest


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
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF"):
            odd[f"{kind} {orientation}"] = (saved(image, kind, exif=exif), image.transpose(transpose))
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
