"""Pictures of a video by their numbers: the k-th on display, and no other one if some cannot be decoded."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import av

from trocar.data.media.input_file import Limits, RejectError, check_size
from trocar.data.media.video.container import VideoInfo, demux, describe, open_video
from trocar.data.media.video.every_picture import Damage, every_picture
from trocar.data.media.video.frame_conversion import deinterlaced
from trocar.data.media.video.index import VideoIndex
from trocar.data.media.video.packet_roles import Irregular
from trocar.data.media.video.sparse_decode import SparseDecode


def numbered_pictures(
    path: Path, index: VideoIndex, wanted: Collection[int], threads: int = 1, limits: Limits | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(k, frame still in its coded format) for each k of `wanted`, rising; interlaced ones are deinterlaced.

    Only what these are predicted from is decoded, where the packets tell. Raises RejectError as soon as a picture is
    damaged, does not come out of the decoder, or is not the one that `index` (of this very file) has at its time.
    """
    reader = _Reader(path, index, frozenset(wanted), threads, limits or Limits())
    given = 0
    try:
        for item in reader.sparse():
            given += 1
            yield item
        return
    except (Irregular, RejectError):
        pass  # only a decode of every picture can say what is wrong, and it gives the same ones up to here
    yield from itertools.islice(reader.every(), given, None)


class _Reader:
    def __init__(self, path: Path, index: VideoIndex, wanted: frozenset[int], threads: int, limits: Limits) -> None:
        if wanted and not 0 <= min(wanted) <= max(wanted) < len(index):
            raise RejectError("no such picture", f"{len(index)} pictures, picture {max(wanted)} is asked for")
        self.path, self.index, self.wanted, self.threads, self.limits = path, index, wanted, threads, limits
        self.number = {int(index.ticks[k]): k for k in wanted}

    def within(self, begin: int, end: int) -> bool:
        """For the sparse decode: whether the picture that begins at this tick is asked for."""
        return begin in self.number

    def sparse(self) -> Iterator[tuple[int, av.VideoFrame]]:
        left = len(self.wanted)
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            pictures = SparseDecode(stream, demux(container, stream), self, info.states_times).frames()
            while left:
                pts, frame = next(pictures, (None, None))
                if pts is None:
                    raise Irregular("a picture that is asked for was not shown")
                number = self.number.get(pts - self.index.first)
                if number is not None:
                    if frame is None:
                        raise Irregular("a picture that is asked for was not decoded")
                    yield number, frame
                    left -= 1

    def every(self) -> Iterator[tuple[int, av.VideoFrame]]:
        last = max(self.wanted, default=-1)
        with open_video(self.path, self.threads) as (container, stream):
            info = describe(container, stream, self.limits)
            before: av.VideoFrame | None = None
            shown: av.VideoFrame | None = None
            count = 0
            for count, frame in enumerate(self._checked(container, stream, info), start=1):
                if shown is not None and count - 2 in self.wanted:
                    yield count - 2, deinterlaced(before, shown, frame)
                if count - 2 >= last and not self.index.counted:
                    return
                before, shown = shown, frame
            if count < len(self.index):
                raise RejectError("damaged", f"only {count} of {len(self.index)} pictures could be decoded")
            if shown is not None and count - 1 in self.wanted:
                yield count - 1, deinterlaced(before, shown, None)

    def _checked(self, container: Any, stream: Any, info: VideoInfo) -> Iterator[av.VideoFrame]:
        """All pictures, each at the time that the index has for it."""
        damage, ticks = Damage(), self.index.ticks
        pictures = every_picture(stream, demux(container, stream), info, damage)
        for number, (pts, frame) in enumerate(pictures):
            if damage.frames:
                raise RejectError("damaged", damage.explain(accepting=False))
            if number >= len(ticks) or pts - self.index.first != ticks[number]:
                expected = float(ticks[min(number, len(ticks) - 1)] * self.index.tick)
                raise RejectError("damaged", f"the picture at {expected:.2f} s did not come out of the decoder")
            check_size(frame.width, frame.height, self.limits.max_pixels)
            yield frame
        if damage.frames:
            raise RejectError("damaged", damage.explain(accepting=False))
