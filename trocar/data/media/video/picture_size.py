"""How large the pictures of a video are when they stand upright, without decoding more than that needs."""

from __future__ import annotations

from pathlib import Path

import av

from trocar.data.media.refusal import RejectError
from trocar.data.media.video.container import open_video
from trocar.data.media.video.frame_conversion import to_rgb

Size = tuple[int, int]
"""(width, height) in pixels."""


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
