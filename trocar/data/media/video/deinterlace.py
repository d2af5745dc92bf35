"""Two fields of one interlaced frame lie a fiftieth of a second apart; woven together, what moves has a comb.

FFmpeg's bwdif ("motion adaptive deinterlacing based on yadif with the use of w3fdif and cubic interpolation", as its
manual has it) keeps the lines of the first field and makes the others from the lines around them, in this frame and in
the frames before and after. One frame comes out for one that goes in.
"""

from __future__ import annotations

from typing import Any

import av

from trocar.data.media.video.frame_conversion import coded_layout, frame_source


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
    graph = _graph(frame)
    for other in window:
        graph.vpush(other)
    graph.vpush(None)
    made: av.VideoFrame = [graph.vpull() for _ in window][window.index(frame)]
    # The filter counts in half ticks.
    made.pts, made.time_base = frame.pts, frame.time_base
    return made


def _graph(frame: av.VideoFrame) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        frame_source(graph, frame),
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph
