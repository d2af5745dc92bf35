"""The clock alone: what is known about a frame without seeing it."""

from __future__ import annotations

import numpy as np

from trocar.downstream.features.baselines.base import BASELINES
from trocar.downstream.features.feature_cache import Features
from trocar.downstream.features.frame_cache import FrameCache


def time_in_video(frames: FrameCache) -> Features:
    """t, its share f of the video's last labelled time, f^2, f^3 and log(1 + t): float32 [n, 5], t in
    seconds.

    The share needs the end of the video, which no online method has.
    """
    table = frames.data.frames
    seconds = table["time_s"].to_numpy(np.float32)
    last = table.groupby("video")["time_s"].transform("max").to_numpy(np.float32)
    share = np.divide(seconds, last, out=np.zeros_like(seconds), where=last > 0)
    return np.stack([seconds, share, share**2, share**3, np.log1p(seconds)], axis=1).astype(np.float32)


BASELINES.register(time_in_video, "time")
