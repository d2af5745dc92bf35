"""One interlaced frame with its neighbours gives what the filter gives that sees the whole video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from ingest_clips import WOVEN, constant, make_clip, woven

from trocar.data.media.frame_conversion import deinterlaced


def frames_of(clip: Path) -> list[av.VideoFrame]:
    with av.open(str(clip)) as container:
        return list(container.decode(video=0))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[av.VideoFrame]:
    clip = tmp_path_factory.mktemp("woven") / "a.mp4"
    return frames_of(make_clip(clip, constant(25, 8), options=WOVEN, pictures=woven(8)))


def whole(frames: list[av.VideoFrame]) -> list[np.ndarray]:
    """All frames through one filter."""
    first, graph = frames[0], av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=first.time_base, name="in"
        ),
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    for frame in frames:
        graph.vpush(frame)
    graph.vpush(None)
    return [graph.vpull().to_ndarray() for _ in frames]


def test_three_frames_are_enough(frames: list[av.VideoFrame]) -> None:
    wanted = whole(frames)
    ends = [None, *frames, None]
    for k, frame in enumerate(frames):
        found = deinterlaced(ends[k], frame, ends[k + 2])
        assert np.array_equal(found.to_ndarray(), wanted[k])
        assert (found.pts, found.time_base) == (frame.pts, frame.time_base)
    assert not np.array_equal(wanted[3], frames[3].to_ndarray())


def test_a_neighbour_of_another_size_counts_as_none(tmp_path: Path, frames: list[av.VideoFrame]) -> None:
    (other,) = frames_of(make_clip(tmp_path / "b.mp4", constant(25, 1)))
    alone = deinterlaced(None, frames[3], frames[4]).to_ndarray()
    assert np.array_equal(deinterlaced(other, frames[3], frames[4]).to_ndarray(), alone)
    assert not np.array_equal(deinterlaced(frames[2], frames[3], frames[4]).to_ndarray(), alone)


def test_a_frame_that_is_not_marked_comes_back_as_it_is(tmp_path: Path) -> None:
    plain = frames_of(make_clip(tmp_path / "a.mp4", constant(25, 3)))
    assert deinterlaced(plain[0], plain[1], plain[2]) is plain[1]
