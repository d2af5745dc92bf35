"""Verdicts on constructed frames whose verdict is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD, QUALITY_SCHEMA
from trocar.data.ingest.quality import dhash, hamming, measure, quality_table

SIZE = (320, 240)


def textured(colour: tuple[int, int, int], seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of blobs and sharp edges around one colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.4, 1.3, (12, 16, 1)).repeat(size[1] // 12, 0).repeat(size[0] // 16, 1)
    fine = rng.uniform(0.9, 1.1, (*coarse.shape[:2], 1))
    return Image.fromarray(np.clip(coarse * fine * np.array(colour), 0, 255).astype(np.uint8))


TISSUE, SCREEN, DRAPE, GREY = (180, 90, 80), (80, 140, 200), (60, 130, 110), (128, 128, 128)


def verdict(*images: Image.Image) -> dict[str, list[object]]:
    return dict(quality_table([measure(image) for image in images]).to_pydict())


def test_schema_and_row_count() -> None:
    table = quality_table([measure(textured(TISSUE, seed)) for seed in range(3)])
    assert table.schema.equals(QUALITY_SCHEMA)
    assert table.num_rows == 3
    assert quality_table([]).num_rows == 0


def test_black_with_a_little_text_is_black_and_not_blurred() -> None:
    black = Image.new("RGB", SIZE, (4, 4, 6))
    black.paste((255, 255, 255), (5, 230, 45, 236))
    found = verdict(black, textured(TISSUE))
    assert found["black"] == [True, False]
    assert found["blurred"] == [False, False]


def test_one_colour_is_uniform() -> None:
    assert verdict(Image.new("RGB", SIZE, (200, 90, 60)), textured(TISSUE))["uniform"] == [True, False]


@pytest.mark.parametrize("scale", [1, 3])
def test_blur_is_told_at_any_size(scale: int) -> None:
    sharp = textured(TISSUE, size=(SIZE[0] * scale, SIZE[1] * scale))
    blurred = sharp.filter(ImageFilter.GaussianBlur(7 * scale))
    assert verdict(sharp, blurred)["blurred"] == [False, True]


def test_blur_does_not_depend_on_exposure() -> None:
    sharp = textured(TISSUE).filter(ImageFilter.GaussianBlur(1))
    dark = sharp.point(lambda value: value * 0.55)
    first, second = measure(sharp).sharpness, measure(dark).sharpness
    assert first == pytest.approx(second, rel=0.15)


def test_the_rim_of_a_round_view_is_no_sharp_edge_of_the_scene() -> None:
    blurred = np.array(textured(TISSUE).filter(ImageFilter.GaussianBlur(7)))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    blurred[(x - 160) ** 2 + (y - 120) ** 2 > 110**2] = 0
    assert verdict(Image.fromarray(blurred))["blurred"] == [True]


@pytest.mark.parametrize("colour", [SCREEN, DRAPE, GREY])
def test_what_is_not_red_is_out_of_body(colour: tuple[int, int, int]) -> None:
    assert measure(textured(colour)).out_of_body >= OUT_OF_BODY_THRESHOLD


@pytest.mark.parametrize("colour", [TISSUE, (200, 60, 90), (210, 160, 60), (120, 40, 30)])
def test_red_pink_yellow_and_dark_tissue_is_in_body(colour: tuple[int, int, int]) -> None:
    assert measure(textured(colour)).out_of_body < OUT_OF_BODY_THRESHOLD


def test_a_third_of_tissue_among_grey_instruments_is_in_body() -> None:
    image = textured(GREY)
    image.paste(textured(TISSUE).crop((0, 0, 110, 240)), (0, 0))
    assert measure(image).out_of_body < OUT_OF_BODY_THRESHOLD


def test_near_duplicates_are_of_the_previous_kept_frame() -> None:
    first, other = textured(TISSUE, 1), textured(TISSUE, 2)
    again = first.point(lambda value: value * 0.97)
    assert verdict(first, again, again, other, first)["near_duplicate"] == [False, True, True, False, False]


def test_slow_drift_is_not_all_a_duplicate_of_its_beginning() -> None:
    wide = textured(TISSUE, 3, size=(640, 240))
    drift = [wide.crop((2 * i, 0, 2 * i + 320, 240)) for i in range(80)]
    kept = verdict(*drift)["near_duplicate"].count(False)
    assert 3 <= kept < 80


def test_dhash_bits_say_darker_than_the_right_neighbour() -> None:
    ramp = np.tile(np.linspace(0, 255, 170).astype(np.uint8), (160, 1))
    assert dhash(Image.fromarray(ramp)) == b"\xff" * 32
    assert dhash(Image.fromarray(ramp[:, ::-1].copy())) == bytes(32)
    step = np.zeros((160, 170), np.uint8)
    step[:, 10:] = 200
    assert dhash(Image.fromarray(step)) == b"\x80\x00" * 16
    assert hamming(b"\x80\x00", b"\x00\x03") == 3
