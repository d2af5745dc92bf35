"""From decoded frames to upright RGB images, cut and scaled.

Two fields of one interlaced frame lie a fiftieth of a second apart; woven together, what moves has a comb.

FFmpeg's bwdif ("motion adaptive deinterlacing based on yadif with the use of w3fdif and cubic interpolation", as its
manual has it) keeps the lines of the first field and makes the others from the lines around them, in this frame and in
the frames before and after. One frame comes out for one that goes in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from trocar.data.ingest.framing import Box
from trocar.data.media.delivered_files import RejectError


def deinterlaced(before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None) -> av.VideoFrame:
    """A frame that is marked as interlaced as its first field shows it; one that isn't comes back as it is.

    `before` and `after` are its neighbours in order of display, None at the ends of a video; a neighbour of another
    size or format, as behind a cut between two recordings, counts as none. The result has the time, colours and
    display matrix of the frame.
    """
    if not frame.interlaced_frame:
        return frame
    window = [
        other for other in (before, frame, after) if other is not None and coded_layout(other) == coded_layout(frame)
    ]
    graph = _bwdif_graph(frame)
    for other in window:
        graph.vpush(other)
    graph.vpush(None)
    made: av.VideoFrame = [graph.vpull() for _ in window][window.index(frame)]
    # The filter counts in half ticks.
    made.pts, made.time_base = frame.pts, frame.time_base
    return made


def _bwdif_graph(frame: av.VideoFrame) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        frame_source(graph, frame),
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


# Chroma at full resolution before the conversion (swscale halves it for RGB otherwise, 10 dB worse), and the
# same bits whatever vector instructions the processor has.
_FLAGS = "bicubic+full_chroma_int+accurate_rnd+bitexact"

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Orientation:
    """How a coded picture is shown: rows and columns change places if `transposed`, after that it is mirrored left to
    right (`flip_x`) and top to bottom (`flip_y`). These are the eight ways in which a rectangle can lie.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether the picture is shown as it is coded."""
        return self == Orientation()

    def apply(self, pixels: Pixels) -> Pixels:
        """The coded picture [height, width, ...] as it is shown."""
        shown = pixels.swapaxes(0, 1) if self.transposed else pixels
        return np.ascontiguousarray(shown[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


def orientation(frame: av.VideoFrame) -> Orientation:
    """By the display matrix (ISO/IEC 14496-12, 8.3.2) that file or stream give this frame; upright without one.

    Raises RejectError for a matrix that turns by anything else than quarters.
    """
    side_data: Any = frame.side_data  # PyAV's types know of motion vectors alone
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    # Point (x, y) of the coded picture is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    small, large = sorted((abs(a) + abs(d), abs(b) + abs(c)))
    if not large:
        return Orientation()  # players take no notice of a matrix of zeros
    if small > large // 50:  # a degree, as ffmpeg has it
        raise RejectError("unsupported rotation", "the display matrix turns the picture, and not by quarters of a turn")
    if abs(b) + abs(c) == large:
        return Orientation(transposed=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)


def to_rgb(frame: av.VideoFrame, scaler: Scaler | None = None) -> Image.Image:
    """The frame as an upright RGB image of its own size, the one way from a frame of a video to a picture.

    `scaler` is one that other frames of the video have used; it saves setting up the conversion again.
    Raises RejectError for a frame that is turned by anything else than quarters.
    """
    pixels = (scaler or Scaler()).rgb(frame, None, (frame.width, frame.height))
    return Image.fromarray(orientation(frame).apply(pixels))


class Scaler:
    """Cut, scale and convert frames in one pass of swscale, straight from their coded format."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._layout: object = None

    def rgb(self, frame: av.VideoFrame, box: Box | None, size: tuple[int, int]) -> Pixels:
        """uint8[height, width, 3] of `size` (width, height) from `box` (left, top, width, height) of the frame,
        None for all of it; as coded, not turned. Bicubic, its support widened where the picture shrinks.
        """
        layout = (coded_layout(frame), box, size)
        if layout != self._layout:
            self._graph, self._layout = _graph(frame, box, size), layout
        self._graph.vpush(frame)
        pixels: Pixels = self._graph.vpull().to_ndarray()
        return pixels


def coded_layout(frame: av.VideoFrame) -> tuple[object, ...]:
    """What a graph of filters is made for: a frame of another layout needs another graph."""
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def frame_source(graph: Any, frame: av.VideoFrame) -> Any:
    """The node of `graph` that frames of this layout are pushed into."""
    return graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base=str(frame.time_base or Fraction(1, 1000)),
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )


def _graph(frame: av.VideoFrame, box: Box | None, size: tuple[int, int]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    left, top, width, height = box or (0, 0, frame.width, frame.height)
    nodes = [
        frame_source(graph, frame),
        graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1"),  # else odd sides lose a line or column
        graph.add("scale", f"{size[0]}:{size[1]}:flags={_FLAGS}"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph
