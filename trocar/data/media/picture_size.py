"""How large a picture is when it stands upright, without decoding more than that needs."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import ExifTags, Image, UnidentifiedImageError

from trocar.data.media.refusal import RejectError
from trocar.data.media.video_container import open_video
from trocar.data.media.video_picture import to_rgb

Size = tuple[int, int]
"""(width, height) in pixels."""
_ON_THEIR_SIDE = range(5, 9)
"""EXIF orientations that swap width and height."""
_SAYS_HOW_IT_LIES = (b"eXIf", b"rientation", b"Raw profile type exif")
"""One of these is in every PNG with an orientation."""


def still_size(path: Path) -> Size:
    """Size of an image file, its EXIF orientation applied. Raises RejectError for a file that is none."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow would decode a whole PNG to look behind its pixels; hardly one says anything there.
            silent = image.format == "PNG" and not any(word in path.read_bytes() for word in _SAYS_HOW_IT_LIES)
            turned = not silent and image.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDE
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise RejectError("undecodable image", str(error)) from None
    return (height, width) if turned else (width, height)


def video_sizes(path: Path) -> tuple[Size, ...]:
    """Sizes of a video's first picture, the display matrix applied: as stored, and where its pixels are no squares, as
    displayed too. Raises RejectError for a file that is no video or has no picture.
    """
    try:
        with open_video(path) as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise RejectError("no frames", "not a single picture can be decoded")
            width, height = to_rgb(frame).size
            aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
            wide = 1 / aspect if (width, height) == (frame.height, frame.width) else aspect
    except av.FFmpegError as error:
        raise RejectError("undecodable video", error.strerror or str(error)) from None
    return tuple(dict.fromkeys([(width, height), (round(width * wide), height)]))
