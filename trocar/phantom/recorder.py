"""Videos whose bytes depend on their frames only."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from trocar.phantom.sampling import Bytes
from trocar.phantom.spec import PhantomSpec


class Recorder:
    """An H.264 encoder whose bytes depend on its frames only: one thread, fixed GOP, no encoder tuning by scene."""

    def __init__(self, path: Path, spec: PhantomSpec, crf: int) -> None:
        self._container = av.open(str(path), "w", options={"fflags": "+bitexact", "movflags": "+faststart"})
        options = {"crf": str(crf), "preset": "superfast", "x264-params": "scenecut=0:threads=1:lookahead-threads=1"}
        self._stream = self._container.add_stream("libx264", rate=Fraction(spec.fps), options=options)
        self._stream.width, self._stream.height = spec.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = 5 * spec.fps
        self._stream.thread_count = 1
        self._stream.codec_context.flags |= av.codec.context.Flags.bitexact
        self._count, self._fps = 0, spec.fps

    def add(self, picture: Bytes) -> None:
        """Encode one picture uint8 [H, W, 3]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self._count
        frame.time_base = Fraction(1, self._fps)
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._container.mux(self._stream.encode())
        self._container.close()
