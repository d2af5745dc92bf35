"""A still picture is opened as viewers show it, or refused in words."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trocar.data.media.delivered_files import MOST_PIXELS, RejectError
from trocar.data.media.still import open_jpeg, open_still, read_still, still_size

# EXIF (CIPA DC-008), tag Orientation: where the first row and the first column of what is stored are shown.
UPRIGHT = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda a: a.transpose(1, 0, 2)[::-1],  # left, bottom
}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}}
ALL: dict[str, dict[str, Any]] = {**LOSSLESS, "BMP": {}, "JPEG": {}}


def scene(width: int = 24, height: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(header: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Pixels uint16[height, width, channels] of grey with alpha, RGB or RGB with alpha."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(header, chunk(b"IDAT", zlib.compress(rows)))


def tiff_of_16_bits(pixels: np.ndarray) -> bytes:
    """Little-endian TIFF 6.0 of one strip, uint16[height, width, 3]."""
    height, width, _ = pixels.shape
    body = pixels.astype("<u2").tobytes()
    bits = 8 + 2 + 9 * 12 + 4
    shorts = {256: width, 257: height, 259: 1, 262: 2, 277: 3, 278: height}
    entries = [(tag, 3, 1, value) for tag, value in shorts.items()]
    entries += [(258, 3, 3, bits), (273, 4, 1, bits + 6), (279, 4, 1, len(body))]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + directory + bytes(4)
    return head + struct.pack("<HHH", 16, 16, 16) + body


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_shown_upright(kind: str, orientation: int) -> None:
    stored = scene()
    found = open_still(saved(stored, kind, exif=exif(orientation), **LOSSLESS[kind]))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_size_is_that_of_the_upright_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(saved(scene(), kind, **({} if kind == "BMP" else {"exif": exif(orientation)}), **ALL[kind]))
    assert still_size(path) == read_still(path).size
    assert still_size(path) == ((16, 24) if orientation > 4 and kind != "BMP" else (24, 16))


@pytest.mark.parametrize(
    "data", [b"a text", b"", b"\x80" * 100, saved(scene(), "GIF")], ids=["text", "-", "noise", "GIF"]
)
def test_what_is_no_picture_has_no_size(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(RejectError):
        still_size(tmp_path / "a")


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_of_a_jpeg_is_shown_upright(orientation: int) -> None:
    stored = np.asarray(open_still(saved(scene(), "JPEG")))
    found = open_still(saved(scene(), "JPEG", exif=exif(orientation)))
    assert np.array_equal(np.asarray(found), UPRIGHT[orientation](stored))


def test_a_png_may_say_behind_its_pixels_how_it_is_turned() -> None:
    whole = saved(scene(), "PNG", exif=exif(6))
    at = whole.index(b"eXIf") - 4
    length = 12 + int.from_bytes(whole[at : at + 4], "big")
    late = whole[:at] + whole[at + length : -12] + whole[at : at + length] + whole[-12:]
    assert late.index(b"eXIf") > late.index(b"IDAT")
    assert np.array_equal(np.asarray(open_still(late)), UPRIGHT[6](scene()))


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    assert np.array_equal(np.asarray(open_still(saved(scene(), "PNG", exif=exif(orientation)))), scene())


def test_palettes_grey_and_one_bit_become_rgb_and_an_alpha_channel_is_dropped() -> None:
    image = Image.fromarray(scene())
    grey = image.convert("L")
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray(scene()[..., 0]))
    palette = image.quantize(16)
    for one, wanted in ((grey, grey), (grey.convert("1"), grey.convert("1")), (palette, palette), (alpha, image)):
        for kind in ("PNG", "TIFF"):
            found = open_still(saved(one, kind))
            assert np.array_equal(np.asarray(found), np.asarray(wanted.convert("RGB"))), (kind, one.mode)
    clear = saved(palette, "PNG", transparency=3)
    assert np.array_equal(np.asarray(open_still(clear)), np.asarray(palette.convert("RGB")))


def test_cmyk_becomes_the_picture_it_was_made_from() -> None:
    image = Image.fromarray(scene(3, 2)).resize((48, 32), Image.Resampling.BICUBIC)
    for kind in ("JPEG", "TIFF"):
        found = open_still(saved(image.convert("CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {})))
        assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 3, kind


def deep() -> dict[str, tuple[bytes, str]]:
    twelve = scene().astype(np.uint16) * 16
    grey = twelve[..., 0]
    return {
        "grey PNG": (saved(grey, "PNG"), "mode I;16"),
        "grey TIFF": (saved(grey, "TIFF"), "mode I;16"),
        "32-bit TIFF": (saved(Image.fromarray(grey.astype(np.int32)), "TIFF"), "mode I"),
        "float TIFF": (saved(Image.fromarray(grey.astype(np.float32) / 4095), "TIFF"), "mode F"),
        "RGB PNG": (png_of_16_bits(twelve), "mode RGB;16"),
        "RGBA PNG": (png_of_16_bits(np.concatenate([twelve, twelve[..., :1]], axis=2)), "mode RGBA;16"),
        "grey and alpha PNG": (png_of_16_bits(twelve[..., :2]), "mode RGBA;16"),
        "RGB TIFF": (tiff_of_16_bits(twelve), "mode RGB;16"),
    }


@pytest.mark.parametrize("name", deep())
def test_more_than_8_bits_are_refused_and_not_cut_off(name: str) -> None:
    data, mode = deep()[name]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (24, 16)  # a sound file: it is its depth that is refused
        image.load()
    with pytest.raises(RejectError) as caught:
        open_still(data)
    assert (caught.value.reason, caught.value.detail) == (
        "unsupported image",
        f"{mode}: more than 8 bits per channel",
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_file_that_ends_early_is_refused_or_has_all_its_pixels(kind: str) -> None:
    data = saved(scene(64, 48), kind, **ALL[kind])
    whole = np.asarray(open_still(data))
    refused = 0
    for length in [*range(65, len(data), max(1, len(data) // 150)), *range(len(data) - 20, len(data))]:
        try:
            found = open_still(data[:length])
        except RejectError:
            refused += 1
        else:
            assert np.array_equal(np.asarray(found), whole), length
    assert refused > 130


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 5_000, 8, 2, 0, 0, 0)
    bomb = png(header, chunk(b"IDAT", zlib.compress(b"")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RejectError) as caught:
            open_still(bomb, 10**6)
    assert (caught.value.reason, caught.value.detail) == (
        "too many pixels",
        "30000 x 5000, the limit of --max-pixels is 1000000",
    )
    with pytest.raises(RejectError, match="undecodable image"):  # within the limit it is only broken
        open_still(bomb, MOST_PIXELS)
    with pytest.raises(RejectError, match="too many pixels"):
        open_still(png(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)))
    with pytest.raises(RejectError, match=r"70000 x 10, no side may have more than 65500"):
        open_still(png(struct.pack(">IIBBBBB", 70_000, 10, 8, 2, 0, 0, 0), chunk(b"IDAT", b"")))


@pytest.mark.parametrize("data", [b"\x80" * 100, saved(scene(), "GIF"), saved(scene(), "PPM")], ids=["-", "GIF", "PPM"])
def test_what_is_no_picture_is_refused_in_equal_words_every_time(data: bytes) -> None:
    with pytest.raises(RejectError) as caught:
        open_still(data)
    assert (caught.value.reason, caught.value.detail) == (
        "undecodable image",
        "no JPEG or PNG or BMP or TIFF or WEBP",
    )


def test_a_text_file_is_named_as_one_and_quoted() -> None:
    with pytest.raises(RejectError) as caught:
        open_still(b"../../frames/000001.jpg")
    assert caught.value.reason == "not an image"
    assert "../../frames/000001.jpg" in caught.value.detail
    assert "000001" not in caught.value.plain


def test_a_file_is_read_as_its_bytes_are_and_empty_or_missing_ones_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(saved(scene(), "PNG", exif=exif(8)))
    (tmp_path / "empty.png").touch()
    assert np.array_equal(np.asarray(read_still(tmp_path / "a.tif")), UPRIGHT[8](scene()))
    with pytest.raises(RejectError, match="empty file"):
        read_still(tmp_path / "empty.png")
    with pytest.raises(RejectError, match="unreadable"):
        read_still(tmp_path / "missing.png")


def test_many_threads_open_pictures_without_touching_each_others_warnings() -> None:
    data, before = saved(scene(), "PNG"), list(warnings.filters)
    threads = [threading.Thread(target=lambda: [open_still(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_stored_jpeg_is_decoded_to_its_end_or_refused() -> None:
    data = saved(scene(300, 200), "JPEG")
    assert open_jpeg(data).size == (300, 200)
    with pytest.raises(RejectError, match="undecodable image"):
        open_jpeg(data[: len(data) // 2])
    with pytest.raises(RejectError, match="undecodable image, no JPEG"):
        open_jpeg(saved(scene(), "PNG"))
