"""Which frames of a labelled data set a probe looks at: some of its training cases, some of its validation cases, and
none of its test cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trocar.core.config import fingerprint
from trocar.data.labelled_data import LabelledFolder
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.features.frame_cache import decoded
from trocar.downstream.labels import Kind, LabelledFrames, LabelSpace
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.tasks import get_task
from trocar.downstream.tasks.base import Task
from trocar.errors import ConfigError

LEAST_CASES = 3
"""Below, the bootstrap over cases has no interval."""


@dataclass(frozen=True)
class ProbedFrames:
    """The chosen frames, by case and time: `train`, `val` are rows of `data`, `case` [N] numbers their operations."""

    data: LabelledFrames
    task: Task
    train: Ints
    val: Ints
    case: Ints

    @property
    def space(self) -> LabelSpace:
        """How the task is labelled."""
        return self.data.space(self.task.name)

    @property
    def val_cases(self) -> int:
        """How many cases are scored."""
        return len(np.unique(self.case[self.val]))

    @property
    def about(self) -> str:
        """For people."""
        train = len(np.unique(self.case[self.train]))
        no_interval = "" if self.val_cases >= LEAST_CASES else ": too few for an interval over cases"
        return (
            f"{len(self.train)} frames of {train} training case(s), scored on {len(self.val)} of {self.val_cases} "
            f"validation case(s){no_interval}"
        )

    def identity(self, **settings: object) -> str:
        """16 hex digits over frames, labels and `settings`; not over where the folder lies."""
        return fingerprint({"frames": self.data.fingerprint, "task": self.task.name, **settings})


def choose_frames(
    folder: LabelledFolder, task: str, frames: int, kinds: tuple[Kind, ...], who: str, scored: str = "val"
) -> ProbedFrames:
    """At most about `frames` labelled frames of `folder`, half of training and half of `scored` cases, a split.

    `kinds` are the kinds of labels that the protocol takes, `who` is what errors call the probe. Raises ConfigError for
    a folder, layout or task that is not there, labels of another kind, or data without training or validation cases.
    """
    try:
        wanted = get_task(task)
        data = open_dataset(folder.data, folder.layout, DatasetOptions(phases=folder.phases, split=folder.split))
        space = data.space(wanted.name)
    except ConfigError as error:
        raise ConfigError(f"{who}: {error}") from None
    if wanted.kind not in kinds or space.kind != wanted.kind:
        raise ConfigError(
            f"{who}: labels of {task!r} are {space.kind}, and its protocol takes {' or '.join(kinds)}; masks are for "
            f"dense, all else for knn and linear"
        )
    known, split = space.known(data.frames), data.frames["split"].to_numpy(str)
    case = data.frames["case"].to_numpy(str)
    parts = []
    for side, name in (("train", "training"), (scored, "validation")):
        rows = np.flatnonzero(known & (split == side))
        if not len(rows):
            raise ConfigError(
                f"{who}: {folder.data} has no {name} cases labelled for {task!r}; name a published split that has some "
                f"(split), or write train and val into the column `split` of its frames.csv or videos.csv"
            )
        parts.append(spread_over_cases(rows, case[rows], frames // 2))
    chosen = np.sort(np.concatenate(parts))
    few = replace(data, frames=data.frames.iloc[chosen].reset_index(drop=True))
    of = few.frames["split"].to_numpy(str)
    numbers = np.unique(few.frames["case"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    train, val = (np.flatnonzero(of == side).astype(np.int64) for side in ("train", scored))
    return ProbedFrames(few, wanted, train, val, numbers)


def spread_over_cases(rows: Ints, case: np.ndarray, count: int) -> Ints:
    """`rows` [n] of some cases, in order -> about `count` of them: as many of each case, evenly over its length, and
    one of each at least.
    """
    names = np.unique(case)
    each = max(1, count // len(names))
    kept = []
    for name in names:
        own = rows[case == name]
        kept.append(own[np.unique(np.linspace(0, len(own) - 1, min(each, len(own))).round().astype(np.int64))])
    return np.concatenate(kept).astype(np.int64)


@dataclass
class DecodedPixels:
    """Pictures of some rows of a data set, decoded at the first look and kept: a rank has its own share."""

    data: LabelledFrames
    _kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def batches(self, rows: Ints, size: int, batch: int) -> Iterator[Tensor]:
        """uint8 [b, 3, size, size], of the rows in order. Raises TrocarError for a picture that cannot be read."""
        key = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest() + f"-{size}"
        if key not in self._kept:
            self._kept[key] = self._decoded(rows, size)
        yield from torch.split(self._kept[key], batch)

    def _decoded(self, rows: Ints, size: int) -> Tensor:
        wanted, place = np.unique(rows, return_inverse=True)
        part = replace(self.data, frames=self.data.frames.iloc[wanted].reset_index(drop=True))
        found: npt.NDArray[np.uint8] = np.zeros((len(wanted), size, size, 3), np.uint8)
        for row, (image,) in decoded(part, [size]):
            found[row] = image
        return torch.from_numpy(found[place]).permute(0, 3, 1, 2).contiguous()


def share_of(count: int, rank: int, size: int) -> Ints:
    """Every `size`-th of `count` places from `rank` on; begun again at the end, so that all ranks have equally many."""
    return (rank + size * np.arange(-(-count // size))) % count


def in_order(parts: Tensor, count: int) -> Tensor:
    """[size, m, ...] of what each rank has of its `share_of` -> [count, ...] in order."""
    return parts.transpose(0, 1).flatten(0, 1)[:count]
