"""Labelled frames as a torch Dataset, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from trocar.data.catalog.catalog import Catalog
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import read_still
from trocar.downstream.features.feature_cache import cache_folder
from trocar.downstream.features.frame_cache import FrameCache, Pixels
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError, TrocarError

Transform = Callable[..., Any]


class LabelledPictures(Dataset[tuple[Any, Any]]):
    """(picture, label) of every frame that carries a task's labels, in the order of the table.

    `rows` int64 [m] are the numbers of these frames in `data.frames`. A picture is uint8 [3, H, W], or what `transform`
    makes of the RGB PIL image. A label is an index (int), float32 [K] of a task with several labels a frame, or uint8
    [H, W] of masks, where 255 is not scored; of masks the transform gets (image, mask) and returns both, since it may
    have to move them together.
    """

    def __init__(
        self,
        data: LabelledFrames,
        task: str,
        transform: Transform | None = None,
        *,
        split: str | None = None,
        size: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.data, self.space, self.transform = data, data.space(task), transform
        rows = data.rows(task)
        if split is not None:
            known = sorted({*data.frames["split"].astype(str)})
            if split not in known:
                raise ConfigError(f"no split {split!r} in {data.root}; there are: {', '.join(filter(None, known))}")
            rows = rows[data.frames["split"].to_numpy(str)[rows] == split]
        self.rows = rows
        self.catalog = None if data.shards is None else Catalog.open(data.shards)
        if size is None and self.catalog is None and (data.frames["frame"].to_numpy()[rows] >= 0).any():
            raise ConfigError(
                f"{data.root}: frames of videos cannot be read one at a time: give size, the pixels of a square that "
                "all are decoded to, once, and kept for later"
            )
        self._pixels: Pixels | None = None
        if size is not None:
            self._pixels = FrameCache(data, cache_folder(None, None if cache is None else Path(cache))).get(size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        row = int(self.rows[number])
        image, label = self._image(row), self._label(row)
        if self.transform is None:
            return _tensor(image), label
        if self.space.kind == "mask":
            moved: tuple[Any, Any] = self.transform(image, label)
            return moved
        return self.transform(image), label

    def _image(self, row: int) -> Image.Image:
        if self._pixels is not None:
            return Image.fromarray(np.asarray(self._pixels[row]))
        frame = self.data.frames.iloc[row]
        if self.catalog is not None:
            return self.catalog[int(frame["shard_row"])]
        try:
            return read_still(self.data.root / str(frame["path"]))
        except RejectError as error:
            raise TrocarError(f"{self.data.root / str(frame['path'])}: {error.reason}, {error.plain}") from None

    def _label(self, row: int) -> Any:
        if self.space.kind == "mask":
            return torch.from_numpy(np.array(self.data.mask(self.space, row)))
        values = self.data.frames[list(self.space.columns)].iloc[row].to_numpy(np.float32)
        return int(values[0]) if self.space.kind == "multiclass" else torch.from_numpy(values)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
