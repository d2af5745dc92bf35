"""What the two data sets of the M2CAI16 challenge share: videos and label files side by side, split by folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trocar.data.media.folders import listed
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.readers.videos import Clip, find_clip
from trocar.errors import ConfigError, nearest

FOLDERS = {"train": "train_dataset", "test": "test_dataset"}
OFFICIAL = "official"
NO_LABELS = ("_timestamp", "_pred")
"""Endings of text files that lie beside the labels: times of the frames, and predictions in the challenge's format."""


def label_files(root: Path, kind: str) -> list[tuple[str, Path]]:
    """(split, label file) of every video whose name has `<kind>_video_` in it."""
    return [
        (split, path)
        for split, folder in FOLDERS.items()
        for path in listed(root / folder, f"*{kind}_video_*.txt")
        if not path.stem.endswith(NO_LABELS)
    ]


def videos(files: list[tuple[str, Path]], missing: list[str]) -> Iterator[tuple[str, Path, Clip]]:
    """(split, label file, video); the names of those without a video go to `missing`."""
    for split, path in files:
        clip = find_clip([path.parent], path.stem)
        if clip is None:
            missing.append(path.stem)
        else:
            yield split, path, clip


def check_split(options: DatasetOptions) -> None:
    """Raises ConfigError for a split other than that of the folders."""
    if options.split not in (None, OFFICIAL):
        hint = nearest(str(options.split), [OFFICIAL])
        raise ConfigError(f"no published split {options.split!r}{hint}; M2CAI16 has one: {OFFICIAL}")
