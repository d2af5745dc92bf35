"""The one table every data set becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from trocar.errors import TrocarError

COLUMNS = ("path", "frame", "case", "video", "time_s", "split", "phase")
UNLABELLED = -1


@dataclass(frozen=True)
class LabelledFrames:
    """Labelled frames of a data set, ordered by case, video and time.

    `frames` has the columns path (str, of an image or a video, relative to `root`), frame (int, native frame
    index in a video, -1 for an image), case (one operation), video (one file or folder), time_s (seconds
    within the video), split (str, '' if none), phase (index into `phases`, -1 if unlabelled) and one column
    per tool (1, 0, or -1 if unlabelled). `notes` says in words what was left out.
    """

    root: Path
    layout: str
    frames: pd.DataFrame
    phases: tuple[str, ...]
    tools: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over every locator, label, case and split; not over pixels or where the folder
        lies.
        """
        digest = hashlib.sha256(repr((self.phases, self.tools)).encode())
        digest.update(self.frames.to_csv(index=False).encode())
        return digest.hexdigest()[:16]


def build_table(
    root: Path,
    layout: str,
    parts: Sequence[pd.DataFrame],
    phases: tuple[str, ...],
    tools: tuple[str, ...],
    notes: Sequence[str] = (),
) -> LabelledFrames:
    """Join the tables of all videos, fill what is unlabelled with -1, and check what must hold.

    Raises TrocarError if nothing is labelled, an image or video is missing, a frame is listed twice, or one
    case lies in two splits.
    """
    if not parts or not any(len(part) for part in parts):
        raise TrocarError(f"{root}: no labelled frames found")
    frames = pd.concat(parts, ignore_index=True)
    for column in ("phase", *tools):
        filled = frames[column] if column in frames else pd.Series(UNLABELLED, index=frames.index)
        frames[column] = filled.fillna(UNLABELLED).astype(np.int64)
    frames = frames[[*COLUMNS, *tools]].sort_values(["case", "video", "time_s"], kind="stable", ignore_index=True)
    _check_files(root, frames)
    _check_duplicates(root, frames)
    _check_splits(root, frames)
    used = tuple(phases) if (frames["phase"] >= 0).any() else ()
    return LabelledFrames(root, layout, frames, used, tuple(tools), tuple(notes))


def _check_files(root: Path, frames: pd.DataFrame) -> None:
    missing = [path for path in frames["path"].unique() if not (root / path).is_file()]
    if missing:
        raise TrocarError(
            f"{root}: {len(missing)} labelled files are missing, the first is {missing[0]}; "
            "complete the data set or remove their labels"
        )


def _check_duplicates(root: Path, frames: pd.DataFrame) -> None:
    twice = frames[frames.duplicated(["path", "frame"])]
    if len(twice):
        row = twice.iloc[0]
        raise TrocarError(f"{root}: {row['path']} frame {row['frame']} is labelled twice")


def _check_splits(root: Path, frames: pd.DataFrame) -> None:
    splits = frames.groupby("case")["split"].unique()
    torn = splits[splits.map(len) > 1]
    if len(torn):
        raise TrocarError(
            f"{root}: case {torn.index[0]!r} lies in several splits ({', '.join(sorted(torn.iloc[0]))}); "
            "a case must be in one"
        )
