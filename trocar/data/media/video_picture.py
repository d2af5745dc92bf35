"""From decoded frames to upright RGB images, cut and scaled."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

# Chroma at full resolution before the conversion (swscale halves it for RGB otherwise, 10 dB worse), and the
# same bits whatever vector instructions the processor has.
_FLAGS = "bicubic+full_chroma_int+accurate_rnd+bitexact"

Box = tuple[int, int, int, int]


def to_rgb(frame: av.VideoFrame) -> Image.Image:
    """The frame as an upright RGB image of its own size: the display matrix of the stream is applied."""
    return _upright(Scaler().rgb(frame, None, (frame.width, frame.height)), frame)


def turns(frame: av.VideoFrame) -> int:
    """Quarter turns counterclockwise that bring the frame upright, 0..3."""
    return round(frame.rotation / 90) % 4


class Scaler:
    """Cut, scale and convert frames in one pass of swscale, straight from their coded format."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._layout: object = None

    def rgb(self, frame: av.VideoFrame, box: Box | None, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        """uint8[height, width, 3] of `size` (width, height) from `box` (left, top, width, height) of the frame,
        None for all of it; as coded, not turned. Bicubic, its support widened where the picture shrinks.
        """
        layout = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, box, size)
        if layout != self._layout:
            self._graph, self._layout = _graph(frame, box, size), layout
        self._graph.vpush(frame)
        pixels: np.ndarray[Any, Any] = self._graph.vpull().to_ndarray()
        return pixels


def _graph(frame: av.VideoFrame, box: Box | None, size: tuple[int, int]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    left, top, width, height = box or (0, 0, frame.width, frame.height)
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base or Fraction(1, 1000)),
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        ),
        graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1"),  # else odd sides lose a line or column
        graph.add("scale", f"{size[0]}:{size[1]}:flags={_FLAGS}"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _upright(pixels: np.ndarray[Any, Any], frame: av.VideoFrame) -> Image.Image:
    quarter = turns(frame)
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, quarter)) if quarter else pixels)
