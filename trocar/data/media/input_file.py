"""Files before they are decoded: regular, not empty, and no longer than their pixels can take.

What is not read: the limits, and the error that says why a file stays out.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trocar.core.config import Config

MAX_SIDE = 65_500
"""Pixels: the longest side that libjpeg writes."""
MOST_PIXELS = 178_956_970
"""Of one picture: Pillow opens none beyond, for it takes them for a decompression bomb."""


class Limits(Config):
    """What is read at most."""

    max_pixels: int = Field(
        36_000_000, ge=1, le=MOST_PIXELS, description="most pixels of a picture; larger ones are rejected"
    )
    max_hours: float = Field(24.0, gt=0, description="longest video in hours; longer ones are rejected")
    max_damaged: int = Field(0, ge=0, description="damaged or missing frames that a video may have")


class RejectError(Exception):
    """This video or image stays out: `reason` is one of a few fixed phrases, `detail` says what was found.

    `quoted` is what the file itself says, which a pseudonymised catalog must not repeat.
    """

    def __init__(self, reason: str, detail: str, quoted: str = "") -> None:
        super().__init__(reason, f"{detail}: {quoted!r}" if quoted else detail)
        self.reason = reason
        self.plain = detail

    def __str__(self) -> str:
        return f"{self.reason}, {self.detail}"

    @property
    def detail(self) -> str:
        """All that was found, with the quotation."""
        return str(self.args[1])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises RejectError for a picture of more than `max_pixels`, or of a side that no JPEG can have."""
    if width * height > max_pixels:
        limit = f"the limit of --max-pixels is {max_pixels}" if max_pixels < MOST_PIXELS else f"over {MOST_PIXELS}"
        raise RejectError("too many pixels", f"{width} x {height}, {limit}")
    if max(width, height) > MAX_SIDE:
        raise RejectError("too many pixels", f"{width} x {height}, no side may have more than {MAX_SIDE}")


def check_file(path: Path) -> None:
    """Raises RejectError for what is no regular file with something in it."""
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
    if not path.is_file():
        raise RejectError("unreadable", "not a regular file")
    if size == 0:
        raise RejectError("empty file", "0 bytes")


def read_picture(path: Path, max_pixels: int) -> bytes:
    """The bytes of an image file. Raises RejectError for one that can't be read, or is longer than `max_pixels` pixels
    of any format take.
    """
    check_file(path)
    limit = 8 * max_pixels + (1 << 20)
    try:
        size = path.stat().st_size
        if size > limit:
            raise RejectError("too many pixels", f"{size} bytes, more than {max_pixels} pixels can take")
        return path.read_bytes()
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
