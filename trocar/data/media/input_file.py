"""Files before they are decoded: regular, not empty, and no longer than their pixels can take."""

from __future__ import annotations

from pathlib import Path

from trocar.data.media.refusal import RejectError


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
    of any format take."""
    check_file(path)
    limit = 8 * max_pixels + (1 << 20)
    try:
        size = path.stat().st_size
        if size > limit:
            raise RejectError("too many pixels", f"{size} bytes, more than {max_pixels} pixels can take")
        return path.read_bytes()
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
