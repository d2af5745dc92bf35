"""Copies between the training and the test cases of one labelled data set: the same picture in two of its splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from trocar.core.random import I64
from trocar.data.leak.content import Copy, compare
from trocar.data.leak.pictures import Pictures, plain_variants
from trocar.downstream.labels import LabelledFrames

MOST = 10_000
"""Frames that are compared, one a second at most; of a larger set every so many seconds of each video."""
SHOWN = 6


def rows_to_compare(data: LabelledFrames, most: int = MOST) -> I64:
    """int64[m] rows of the table, at most about `most`, spread over all videos."""
    frames = data.frames
    second = pd.Series(np.floor(frames["time_s"] + 1e-6), index=frames.index)
    timed = (frames.groupby("video")["time_s"].transform("nunique") > 1) & (not data.untimed)
    rows = np.flatnonzero(~(pd.DataFrame({"video": frames["video"], "second": second}).duplicated() & timed))
    every = -(-len(rows) // most)
    # By the clock of each video and not by place: a copy is then looked for at the same moments.
    kept = np.where(timed.iloc[rows], second.iloc[rows] % every == 0, np.arange(len(rows)) % every == 0)
    chosen: I64 = rows[kept.astype(bool)].astype(np.int64)
    return chosen


def copies_within(data: LabelledFrames, rows: I64, images: Iterable[npt.NDArray[np.uint8]]) -> list[str]:
    """In lines, which test cases show pictures of training cases, of uint8 [H, W, 3] of each of the `rows` in order.

    Without a training and a test split every case is compared with every other one, as any two may be divided by one.
    """
    frames = data.frames.iloc[rows]
    hashes = (
        np.stack([plain_variants(Image.fromarray(image)) for image in images]) if len(rows) else np.zeros((0, 1, 32))
    )
    videos = list(dict.fromkeys(frames["video"]))
    number = {video: index for index, video in enumerate(videos)}
    case_of = frames.groupby("video")["case"].first()
    every = Pictures(
        hashes.astype(np.uint8),
        frames["video"].map(number).to_numpy(np.int64),
        frames["time_s"].to_numpy(np.float64),
        tuple(map(str, videos)),
        tuple(("", str(case_of[video])) for video in videos),
        untimed=data.untimed,
    )
    split = frames["split"].to_numpy(str)
    halves = bool((split == "train").any() and np.isin(split, ("test", "val")).any())
    queries = every.only(np.isin(split, ("test", "val"))) if halves else every
    pool = every.only(split == "train") if halves else every
    found = compare(queries, replace(pool, hashes=pool.hashes[:, :1]), other_cases=True)
    return _words(every, found.copies, found.pairs, "training" if halves else "other")


def _words(every: Pictures, copies: Sequence[Copy], pairs: int, whose: str) -> list[str]:
    alike: dict[tuple[str, str], Copy] = {}
    for copy in copies:
        pair = every.cases[copy.query][1], every.cases[copy.pool][1]
        alike.setdefault(pair if whose == "training" else (min(pair), max(pair)), copy)
    if not alike:
        return []
    lines = [
        f"{len(alike)} pair(s) of cases show the same pictures ({pairs:,} pairs of pictures compared): what a test "
        f"case shares with a {whose} case makes a score look better than it is"
    ]
    for (test, other), copy in list(alike.items())[:SHOWN]:
        where = "at no common offset in time" if copy.offset_s is None else f"{copy.offset_s:+.1f} s away"
        where = "isolated pictures" if copy.rows else where
        lines.append(f"case {test} and the {whose} case {other}: {copy.frames} picture(s), {where}")
    return [*lines, f"and {len(alike) - SHOWN} more pairs"] if len(alike) > SHOWN else lines
