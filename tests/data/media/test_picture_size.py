"""Sizes of a video whose pixels are no squares: as stored and as displayed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from trocar.data.media.video_container import video_sizes


@pytest.mark.parametrize(("aspect", "sizes"), [(None, ((64, 32),)), (Fraction(3, 2), ((64, 32), (96, 32)))])
def test_pixels_that_are_no_squares_give_a_second_size(
    tmp_path: Path, aspect: Fraction | None, sizes: tuple[tuple[int, int], ...]
) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert video_sizes(tmp_path / "a.mp4") == sizes
