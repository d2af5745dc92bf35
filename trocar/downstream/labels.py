"""The one table every data set becomes; and what is asked about leaks where it is scored or shown:
`trocar.leakage.judge` is handed in to answer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from trocar.core.messages import Say
from trocar.core.random import I64
from trocar.data.ingest.framing import ShownPictures
from trocar.errors import ConfigError, TrocarError, nearest

if TYPE_CHECKING:
    from trocar.downstream.features.torch_dataset import LabelledPictures


Kind = Literal["multiclass", "multilabel", "mask"]
Mask = npt.NDArray[np.uint8]
COLUMNS = ("path", "frame", "case", "video", "time_s", "split")
UNLABELLED = -1
IGNORED_PIXEL = 255


@dataclass(frozen=True)
class LabelSpace:
    """What a data set labels for one task.

    `kind` multiclass: the column `<task>` holds an index into `classes`, or -1 where a frame is unlabelled.
    multilabel: one column `<task>/<class>` per class of 0 and 1 (`soft`: any value in 0..1, the mean of several
    annotators), -1 where unlabelled. mask: the column `mask` holds a path relative to the data set's root, '' where
    unlabelled, and `read_mask` makes uint8 [H, W] of it: an index into `classes`, or 255 for a pixel that is not
    scored; `mask_files` are the files that it reads for that path, where these are others. `unscored`: indices of
    classes that the official scoring leaves out. `background`: the class of pixels that are nothing in particular,
    where there is one: means without it are then what tells methods apart. `white_is_suspect`: the files hold class
    indices, so that 255 beside a class that no mask has is most likely that class. `merged_from`: the labels before
    their classes were merged.
    """

    task: str
    kind: Kind
    classes: tuple[str, ...]
    soft: bool = False
    unscored: tuple[int, ...] = ()
    background: int | None = None
    white_is_suspect: bool = False
    read_mask: Callable[[Path], Mask] | None = field(default=None, compare=False)
    mask_files: Callable[[Path], Sequence[Path]] | None = field(default=None, compare=False)
    merged_from: LabelSpace | None = field(default=None, compare=False)

    @property
    def background_name(self) -> str | None:
        """Name of the background class, if there is one."""
        return None if self.background is None else self.classes[self.background]

    def mask_at(self, path: Path) -> Mask:
        """`read_mask(path)`. Raises TrocarError for a mask that cannot be read, or for labels that are no masks."""
        if self.read_mask is None:
            raise TrocarError(f"{path}: the masks of {self.task!r} cannot be read")
        return self.read_mask(path)

    def files_at(self, path: Path) -> Sequence[Path]:
        """The files that `mask_at` reads."""
        return (path,) if self.mask_files is None else self.mask_files(path)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that hold these labels."""
        if self.kind == "multilabel":
            return tuple(f"{self.task}/{name}" for name in self.classes)
        return ("mask",) if self.kind == "mask" else (self.task,)

    def known(self, frames: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which frames carry this task's labels, bool [n]."""
        if not self.classes:
            return np.zeros(len(frames), dtype=bool)
        values = frames[list(self.columns)]
        labelled = values != "" if self.kind == "mask" else values >= 0
        return np.asarray(labelled.to_numpy(bool).all(axis=1), dtype=bool)


@dataclass(frozen=True)
class LabelledFrames:
    """Labelled frames of a data set, ordered by case, video and time.

    `frames` has the columns path (str, of an image or a video, relative to `root`), frame (int, native frame index in a
    video, -1 for an image), case (one operation), video (one file or folder), time_s (seconds within the video), split
    ('' if none), and those of the label `spaces`. `notes` says in words what was left out or is off. `budgets`: name ->
    draws of labelled training cases, where such lists are published. `official`: (task, split) -> the number of frames
    the data set's authors label, where it is known for these splits. `shards`: a shards folder that has the pictures;
    the column `shard_row` then holds the row of each frame in its catalog, and no pixel is taken from `path`. `shown`:
    video -> what its pictures there show, for those that do not show all. `listed`: split -> (videos here, videos in
    the published list), where such a list is used. `sources`: case -> the published data set or collection that it
    comes from, where the data set says so. `untimed`: `time_s` is only the order of the pictures, which need not have
    been taken in it.
    """

    root: Path
    layout: str
    frames: pd.DataFrame
    spaces: tuple[LabelSpace, ...]
    notes: tuple[str, ...] = ()
    budgets: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    official: Mapping[tuple[str, str], int] = field(default_factory=dict)
    shards: Path | None = None
    shown: Mapping[str, ShownPictures] = field(default_factory=dict)
    listed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    untimed: bool = False

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with at least one label."""
        return tuple(space.task for space in self.spaces)

    def space(self, task: str) -> LabelSpace:
        """Labels of a task. Raises ConfigError where the data set has none."""
        for space in self.spaces:
            if space.task == task:
                return space
        raise ConfigError(
            f"{self.root} ({self.layout}) has no labels for the task {task!r}{nearest(task, self.tasks)}; "
            f"it has: {', '.join(self.tasks) or 'none'}"
        )

    def rows(self, task: str) -> npt.NDArray[np.int64]:
        """Row numbers of the frames that carry the task's labels."""
        return np.flatnonzero(self.space(task).known(self.frames)).astype(np.int64)

    def mask(self, space: LabelSpace, row: int) -> Mask:
        """uint8 [H, W] of a row of the table: the class of what its picture shows, or 255. As large as the mask in the
        file, or the part of it that was ingested. Raises TrocarError for a mask that cannot be read.
        """
        frame = self.frames.iloc[row]
        mask = space.mask_at(self.root / str(frame["mask"]))
        shown = self.shown.get(str(frame["video"]))
        return mask if shown is None else shown.part_of(mask, IGNORED_PIXEL)

    def missing(self, task: str, split: str) -> tuple[int, int] | None:
        """(labelled frames here, official number) where they differ; None where they agree or it isn't known."""
        expected = self.official.get((task, split))
        if expected is None:
            return None
        of_split = self.frames["split"].to_numpy(str)[self.rows(task)] == split
        found = int(of_split.sum())
        return None if found == expected else (found, expected)

    def as_torch(
        self,
        task: str,
        transform: Callable[..., Any] | None = None,
        *,
        split: str | None = None,
        size: int | None = None,
        cache: str | Path | None = None,
    ) -> LabelledPictures:
        """A torch Dataset of (picture, label) of the frames that carry the task's labels, all or of one `split`.

        `transform` is called with the RGB PIL image (of masks with image and mask); without it pictures are uint8
        [3, H, W]. With `size` every picture is squashed to a square of so many pixels, decoded once and kept in `cache`
        (default: the user's), which frames of videos need. Raises ConfigError for a task or split that is not there.
        """
        from trocar.downstream.features.torch_dataset import LabelledPictures

        return LabelledPictures(self, task, transform, split=split, size=size, cache=cache)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over every locator, label, case and split; not over pixels or where the folder lies."""
        digest = hashlib.sha256(repr([(s.task, s.kind, s.classes) for s in self.spaces]).encode())
        digest.update(self.frames.to_csv(index=False).encode())
        return digest.hexdigest()[:16]


def build_table(
    root: Path,
    layout: str,
    parts: Sequence[pd.DataFrame],
    spaces: Sequence[LabelSpace],
    *,
    notes: Sequence[str] = (),
    budgets: Mapping[str, Sequence[Sequence[str]]] | None = None,
    official: Mapping[tuple[str, str], int] | None = None,
) -> LabelledFrames:
    """Join the tables of all videos, fill what is unlabelled, and check what must hold.

    A space without a single label is left out, and so are its official counts. Raises TrocarError if nothing is
    labelled, an image, video or mask is missing, a frame is listed twice, one case lies in two splits, or a label is
    out of range.
    """
    if not parts or not any(len(part) for part in parts):
        raise TrocarError(f"{root}: no labelled frames found")
    frames = pd.concat([part for part in parts if len(part)], ignore_index=True)
    for space in spaces:
        for column in space.columns:
            frames[column] = _filled(frames, column, space)
    used = tuple(space for space in spaces if space.known(frames).any())
    if not used:
        raise TrocarError(f"{root}: none of the {len(frames)} frames found carries a label")
    columns = [*COLUMNS, *(column for space in used for column in space.columns)]
    frames = frames[columns].sort_values(["case", "video", "time_s"], kind="stable", ignore_index=True)
    _check_files(root, frames)
    _check_duplicates(root, frames)
    _check_splits(root, frames)
    for space in used:
        _check_range(root, frames, space)
    lists = {name: tuple(tuple(draw) for draw in draws) for name, draws in (budgets or {}).items()}
    tasks = {space.task for space in used}
    counts = {key: number for key, number in (official or {}).items() if key[0] in tasks}
    return LabelledFrames(root, layout, frames, used, tuple(notes), lists, counts)


def _filled(frames: pd.DataFrame, column: str, space: LabelSpace) -> pd.Series:
    if space.kind == "mask":
        values = frames[column] if column in frames else pd.Series("", index=frames.index)
        return values.astype(object).fillna("").astype(str)
    values = frames[column] if column in frames else pd.Series(UNLABELLED, index=frames.index)
    numbers = values.fillna(UNLABELLED).astype(np.float64)
    odd = ~np.isfinite(numbers) if space.soft else numbers != numbers.round()
    if odd.any():
        where = frames[odd].iloc[0]
        raise TrocarError(
            f"{where['path']} frame {where['frame']}: {column} is {numbers[odd].iloc[0]:g}, which is no "
            + ("number from 0 to 1" if space.soft else "whole number")
        )
    return numbers if space.soft else numbers.astype(np.int64)


def _check_range(root: Path, frames: pd.DataFrame, space: LabelSpace) -> None:
    if space.kind == "mask":
        return
    highest = len(space.classes) - 1 if space.kind == "multiclass" else 1
    values = frames[list(space.columns)]
    wrong = ((values > highest) | ((values < 0) & (values != UNLABELLED))).any(axis=1)
    if wrong.any():
        row = frames[wrong].iloc[0]
        raise TrocarError(
            f"{root}: {row['path']} frame {row['frame']}: a label of {space.task!r} is outside 0..{highest}"
        )


def _check_files(root: Path, frames: pd.DataFrame) -> None:
    wanted = list(frames["path"].unique())
    if "mask" in frames:
        wanted += [path for path in frames["mask"].unique() if path]
    missing = [path for path in wanted if not os.path.isfile(f"{root}/{path}")]  # noqa: PTH113  five times as fast
    if missing:
        raise TrocarError(
            f"{root}: {len(missing)} labelled files are missing, the first is {missing[0]}; "
            "complete the data set or remove their labels"
        )


def _check_duplicates(root: Path, frames: pd.DataFrame) -> None:
    # One picture of a video may stand for several seconds, each with its label.
    times = frames["time_s"].where(frames["frame"] >= 0, 0.0)
    twice = frames[frames.assign(time_s=times).duplicated(["path", "frame", "time_s"])]
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


Judged = Callable[[Sequence[str | Path]], dict[str, Any]]
"""judged(backbones): the worst verdict over them as JSON values, as it stands beside a score."""


class CopyCheck(Protocol):
    """Finds pictures that two splits of one data set share."""

    def rows_to_compare(self, data: LabelledFrames, most: int = ...) -> I64:
        """int64[m] rows of the table, at most about `most`, spread over all videos."""
        ...

    def copies_within(self, data: LabelledFrames, rows: I64, images: Iterable[npt.NDArray[np.uint8]]) -> list[str]:
        """In lines, which test cases show pictures of training cases, of uint8 [H, W, 3] of the `rows` in order."""
        ...


class LeakChecks(CopyCheck, Protocol):
    """Also says whether weights have seen test cases."""

    def judging(self, data: LabelledFrames, cases: Collection[str], say: Say) -> Judged:
        """What judges weights on these cases of a data set."""
        ...
