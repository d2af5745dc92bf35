"""What is not read: the limits, and the error that says why a file stays out."""

from __future__ import annotations

from pydantic import Field

from trocar.config import Config

MAX_SIDE = 65_500
"""Pixels: the longest side that libjpeg writes."""


class Limits(Config):
    """What is read at most: `max_pixels` per picture, `max_hours` per video, `max_damaged` damaged or missing frames
    per video."""

    max_pixels: int = Field(36_000_000, ge=1, le=178_956_970)  # Pillow opens none beyond
    max_hours: float = Field(24.0, gt=0)
    max_damaged: int = Field(0, ge=0)


class RejectError(Exception):
    """This video or image stays out: `reason` is one of a few fixed phrases, `detail` says what was found.

    `quoted` is what the file itself says, which a pseudonymised catalog must not repeat.
    """

    def __init__(self, reason: str, detail: str, quoted: str = "") -> None:
        super().__init__(reason, f"{detail}: {quoted!r}" if quoted else detail)
        self.reason = reason
        self.plain = detail

    @property
    def detail(self) -> str:
        """All that was found, with the quotation."""
        return str(self.args[1])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises RejectError for a picture of more than `max_pixels`, or of a side that no JPEG can have."""
    if width * height > max_pixels:
        raise RejectError("too many pixels", f"{width} x {height}, the limit of --max-pixels is {max_pixels}")
    if max(width, height) > MAX_SIDE:
        raise RejectError("too many pixels", f"{width} x {height}, no side may have more than {MAX_SIDE}")
