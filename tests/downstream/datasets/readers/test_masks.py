"""Masks as files: grey, in three channels, with alpha, with a palette; what is said of them, and classes merged."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from PIL import ExifTags, Image

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.cholecseg8k import GREYS
from trocar.downstream.datasets.readers.masks import (
    load_remap,
    mask_keys,
    open_mask,
    read_grey,
    read_indices,
    read_values,
    remap_names,
)
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError, TrocarError

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


NAMES = ("liver", "Background", "tool")


@pytest.mark.parametrize(
    ("more", "background", "meant"),
    [
        ("", 1, False),
        ("background: tool\n", 2, False),
        ("background:\n", None, False),
        ("background: null\n", None, False),
        ("not_scored: 255\n", 1, True),
    ],
)
def test_keys_of_masks(tmp_path: Path, more: str, background: int | None, meant: bool) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(f"segmentation: [{', '.join(NAMES)}]\n{more}")
    assert mask_keys(path, NAMES) == (background, meant)


def test_without_a_class_of_that_name_there_is_no_background(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("segmentation: [liver, tool]\n")
    assert mask_keys(path, ("liver", "tool")) == (None, False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("background: tol\n", r"background: no class 'tol' \(did you mean 'tool'\?\); classes: liver"),
        ("not_scored: 0\n", r"not_scored: '0': the one value that is not scored is 255"),
    ],
)
def test_other_values_are_refused(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(f"segmentation: [{', '.join(NAMES)}]\n{more}")
    with pytest.raises(TrocarError, match=message):
        mask_keys(path, NAMES)


GOOD = "classes: [tissue, tool]\nmerge: {background: ignore, liver: tissue, fat: tissue, hook: tool}\n"


def dataset(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    Image.new("RGB", (5, 1)).save(root / "a.png")
    Image.fromarray(np.array([[0, 1, 2, 3, 255]], np.uint8)).save(root / "m.png")
    pd.DataFrame([{"path": "a.png", "case": "c", "mask": "m.png"}]).to_csv(root / "frames.csv", index=False)
    (root / "classes.yaml").write_text("segmentation: [background, liver, hook, fat]\n")
    return root


def opened(tmp_path: Path, remap: str) -> LabelledFrames:
    (tmp_path / "merge.yaml").write_text(remap)
    return open_dataset(dataset(tmp_path / "data"), options=DatasetOptions(remap=str(tmp_path / "merge.yaml")))


def test_masks_are_merged_by_name_and_ignored_pixels_stay_ignored(tmp_path: Path) -> None:
    data = opened(tmp_path, GOOD)
    space = data.space("segmentation")
    assert space.read_mask is not None
    assert space.classes == ("tissue", "tool")
    assert space.read_mask(data.root / "m.png").tolist() == [[255, 0, 1, 0, 255]]
    assert data.fingerprint != open_dataset(data.root).fingerprint


def test_a_remapped_reader_goes_to_other_processes(tmp_path: Path) -> None:
    data = opened(tmp_path, GOOD)
    reader = pickle.loads(pickle.dumps(data.space("segmentation").read_mask))
    assert reader(data.root / "m.png").tolist() == [[255, 0, 1, 0, 255]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("fat: tissue, ", ""), "says nothing of the class 'fat'"),
        (GOOD.replace("fat:", "fad:"), r"no class 'fad' \(did you mean 'fat'"),
        (GOOD.replace("hook: tool", "hook: tol, bone: tool"), r"merge.hook: no class 'tol' \(did you mean 'tool'"),
        (GOOD.replace("[tissue, tool]", "[tissue, tool, bone]"), "nothing becomes 'bone'"),
        (GOOD.replace("[tissue, tool]", "[tissue, tissue]"), "names must differ"),
        (GOOD.replace("fat: tissue", "fat: tissue, liver: tool"), "'liver' is listed twice"),
        (GOOD.replace("merge:", "merged:"), r"merged"),
        ("classes: [a", "not valid YAML"),
        ("- a", "expected `classes` and `merge`"),
    ],
)
def test_a_file_that_contradicts_itself_or_the_data_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, text)


def test_the_file_for_cholecseg8k_names_its_classes() -> None:
    assert remap_names() == ["cholecseg8k_8"]
    remap = load_remap("cholecseg8k_8")
    assert set(remap.merge) == set(GREYS)
    assert len(remap.classes) == 8
    with pytest.raises(ConfigError, match="did you mean 'cholecseg8k_8'"):
        load_remap("cholecseg8k")


def test_a_data_set_without_masks_has_nothing_to_merge(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    with pytest.raises(ConfigError, match="has no masks; its tasks: phase, tools"):
        open_dataset(tmp_path, options=DatasetOptions(remap="cholecseg8k_8"))


@pytest.mark.parametrize(
    ("merge", "background"),
    [
        ("{background: rest, liver: tissue, fat: tissue, hook: tool}", "rest"),
        ("{background: tissue, liver: tissue, fat: rest, hook: tool}", None),
        ("{background: ignore, liver: tissue, fat: rest, hook: tool}", None),
    ],
)
def test_the_background_stays_one_only_where_nothing_is_merged_into_it(
    tmp_path: Path, merge: str, background: str | None
) -> None:
    data = opened(tmp_path, f"classes: [tissue, tool, rest]\nmerge: {merge}\n")
    assert data.space("segmentation").background_name == background
