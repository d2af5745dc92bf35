"""A picture is fit where it lies if every decoder shows it alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tar_factory import encoded, still

from trocar.data.ingest.tars.tar_samples import unfit
from trocar.data.loading.steps import decode_jpeg


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("baseline", None),
        ("422", None),
        ("444", None),
        ("exif", None),
        ("progressive", "progressive JPEG"),
        ("turned", "turned by EXIF"),
        ("grey", "grey JPEG"),
        ("cmyk", "CMYK JPEG"),
        ("png", "PNG"),
        ("webp", "WebP"),
    ],
)
def test_each_kind_has_its_reason(kind: str, reason: str | None) -> None:
    assert unfit(encoded(still(1), kind)) == reason


def test_colours_that_are_not_converted_are_unfit() -> None:
    buffer = io.BytesIO()
    still(1).save(buffer, "JPEG", keep_rgb=True)
    assert unfit(buffer.getvalue()) in ("RGB JPEG", "unusual chroma")


@pytest.mark.parametrize("kind", ["baseline", "422", "444", "exif"])
def test_what_is_fit_decodes_alike_in_the_reader_and_in_pillow(kind: str) -> None:
    data = encoded(still(2), kind)
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    read = decode_jpeg(data).permute(1, 2, 0).numpy().astype(int)
    assert read.shape == shown.shape
    assert np.abs(read - shown).mean() < 1
