"""Masks as files: grey, in three channels, with alpha, with a palette."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from trocar.downstream.datasets.readers.masks import open_mask, read_grey, read_indices, read_values
from trocar.errors import TrocarError

VALUES = np.array([[0, 1, 2]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_equal_channels_are_one_value(tmp_path: Path, mode: str) -> None:
    Image.fromarray(VALUES).convert(mode).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 3).tolist() == [[0, 1, 2]]


def test_in_a_palette_the_index_counts_not_the_colour(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES).copy()
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 3).tolist() == [[0, 1, 2]]
    with pytest.raises(TrocarError, match="its channels differ"):
        read_grey(tmp_path / "m.png")


def test_other_values_and_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 4).tolist() == [[0, 3, 255]]
    with pytest.raises(TrocarError, match=r"holds \[3\], but there are 3 classes \(0 to 2"):
        read_indices(tmp_path / "m.png", 3)
    (tmp_path / "m.png").write_text("../train/m.png")
    with pytest.raises(TrocarError, match="cannot be decoded as a mask"):
        read_grey(tmp_path / "m.png")


def write_png(path: Path, bits: int, kind: int, rows: list[bytes], width: int) -> Path:
    """A PNG of any depth and colour type, byte by byte: Pillow writes few of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_one_bit_is_the_classes_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 1]], bool)).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 2).tolist() == [[0, 1, 1]]
    assert read_grey(tmp_path / "m.png").tolist() == [[0, 255, 255]]


@pytest.mark.parametrize(
    ("bits", "row", "values"),
    [(1, b"\x60", [0, 1, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x03\xf0", [0, 3, 15, 0])],
)
def test_shallow_grey_holds_its_own_numbers_not_shades(
    tmp_path: Path, bits: int, row: bytes, values: list[int]
) -> None:
    path = write_png(tmp_path / "m.png", bits, 0, [row], len(values))
    assert read_values(path).tolist() == [values]


def test_sixteen_bits_hold_the_same_numbers(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2, 255]], np.uint16)).save(tmp_path / "m.png")
    assert read_indices(tmp_path / "m.png", 3).tolist() == [[0, 2, 255]]
    Image.fromarray(np.array([[0, 2, 300]], np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(TrocarError, match="holds 0 to 300; a mask holds numbers of classes"):
        read_indices(tmp_path / "m.png", 3)


def test_colours_of_sixteen_bits_are_refused_since_their_lower_byte_would_be_lost(tmp_path: Path) -> None:
    path = write_png(tmp_path / "m.png", 16, 2, [bytes([0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])], 2)
    with pytest.raises(TrocarError, match="channels of 16 bits; a mask has one channel"):
        read_values(path)


def test_decimals_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5]], np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(TrocarError, match="numbers with decimals"):
        read_values(tmp_path / "m.tif")


def test_a_mask_that_is_in_the_alpha_channel_alone_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., 3] = [0, 255, 255]
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(TrocarError, match="differ in the alpha channel alone"):
        read_values(tmp_path / "m.png")
    pixels[0, 1, :3] = 1
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read_values(tmp_path / "m.png").tolist() == [[0, 1, 0]]


def test_a_mask_in_colour_is_refused_with_one_of_its_colours(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0, 0], [200, 0, 10]]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(TrocarError, match=r"in colour \(such as \(200, 0, 10\)\)"):
        read_indices(tmp_path / "m.png", 3)


def test_a_jpeg_is_told_that_it_changes_values(tmp_path: Path) -> None:
    values = np.kron(np.eye(8, dtype=np.uint8) * 2, np.ones((3, 3), np.uint8)) * 100
    Image.fromarray(values).save(tmp_path / "m.jpg", quality=60)
    with pytest.raises(TrocarError, match=r"\.jpg files change the values they are given: save masks as PNG"):
        read_indices(tmp_path / "m.jpg", 2)


def test_a_mask_is_turned_upright_as_its_picture_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter clockwise
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "m.png", exif=exif)
    assert read_values(tmp_path / "m.png").tolist() == [[0], [1], [2]]
    assert open_mask(tmp_path / "m.png").size == (1, 3)
