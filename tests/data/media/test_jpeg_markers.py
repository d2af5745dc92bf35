import io
import struct

import numpy as np
import pytest
from data_factory import random_jpeg
from PIL import Image

from trocar.data.media.still import frame_size

GOOD = random_jpeg(np.random.default_rng(0), (64, 48))


def changed(at, new):
    return GOOD[:at] + new + GOOD[at + len(new) :]


def scan():
    return GOOD.index(b"\xff\xda") + 14


def saved(**options):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(GOOD)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"comment": b"\xff\xda"}])
def test_whole_jpegs_give_the_size_of_their_header(options):
    assert frame_size(saved(**options)) == (64, 48)


def test_a_header_that_lies_gives_what_it_says():
    height = GOOD.index(b"\xff\xc0") + 5
    assert frame_size(changed(height, struct.pack(">H", 96))) == (64, 96)


@pytest.mark.parametrize(
    ("jpeg", "words"),
    [
        (b"", "does not start"),
        (b"\0" + GOOD[1:], "does not start"),
        (GOOD[:-2], "within its image data"),
        (GOOD[: len(GOOD) // 2], "within its image data"),
        (GOOD[: scan() - 20], "ends|marker"),
        (changed(scan() + 20, b"\xff\xe5"), "marker 0xe5"),
        (changed(scan() + 20, b"\xff\xff"), "marker 0xff"),
        (changed(len(GOOD) // 2, bytes(len(GOOD) - len(GOOD) // 2)), "within its image data"),
        (b"\xff\xd8\xff\xd9", "before its image data"),
        (changed(GOOD.index(b"\xff\xc0") + 5, bytes(2)), "without a size"),
        (changed(2, b"\0"), "no marker at byte 2"),
    ],
)
def test_what_is_not_a_whole_jpeg_is_refused_in_words(jpeg, words):
    with pytest.raises(ValueError, match=words):
        frame_size(jpeg)


def test_of_image_data_the_first_marker_decides():
    """0xFF with a stuffed zero or a restart marker (0xD0 to 0xD7) behind it is no marker."""
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(3000):
        noise = bytes(rng.choice([0xFF, 0xFF, 0x00, 0xD0, 0xD7, 0xD8, 0xD9, 0xCF, 0x07], rng.integers(0, 12)).tolist())
        jpeg = GOOD[: scan()] + noise + b"\x00\xff\xd9"
        pairs = zip(jpeg[scan() :], jpeg[scan() + 1 :], strict=False)
        found = next(code for mark, code in pairs if mark == 0xFF and code and not 0xD0 <= code <= 0xD7)
        if found == 0xD9:
            ends += 1
            assert frame_size(jpeg) == (64, 48)
        else:
            with pytest.raises(ValueError, match=f"marker 0x{found:02x}"):
                frame_size(jpeg)
    assert 300 < ends < 2700
