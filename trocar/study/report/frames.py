"""Test frames of a task behind its predictions: rows of one run, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from trocar.downstream.datasets.readers.from_shards import locate
from trocar.downstream.features.frame_cache import Size, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.predictions.prediction_file import About, read_predictions
from trocar.errors import TrocarError
from trocar.report.inputs import Images
from trocar.study.results.results import Score, StudyResults

PLACE = ["case", "video", "time_s", "path", "frame"]
HEIGHT = 216


def rows_of(score: Score) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of one run in the order of case, video and time, of the cases that count; and the class names."""
    table, about = _read(score.predictions)
    mine = np.ones(len(table), dtype=bool)
    for column, value in score.key._asdict().items():
        mine &= (table[column] == value).to_numpy(bool)
    if score.scored is not None:
        mine &= table["case"].isin(score.scored).to_numpy(bool)
    rows: pd.DataFrame = table[mine].sort_values(PLACE, kind="stable", ignore_index=True)
    return rows, tuple(str(name) for name in about.classes.get(score.key.task, ()))


@lru_cache(maxsize=2)
def _read(path: Path) -> tuple[pd.DataFrame, About]:
    return read_predictions(path)


def frames_of(results: StudyResults, task: str, rows: pd.DataFrame) -> LabelledFrames:
    """The rows as frames that can be decoded. Raises TrocarError where the shards do not have them."""
    about: Mapping[str, str] = results.lock["tasks"][task]
    table = rows[PLACE].assign(split="")
    data = LabelledFrames(Path(about["root"]), about["layout"], table, ())
    shards = results.study.tasks[task].shards
    return data if shards is None else locate(data, shards)


def pictures(data: LabelledFrames, rows: Sequence[int], size: Size | None = None) -> Images:
    """uint8 [n, H, W, 3] of some rows, in their order; without `size` as they are, scaled to 216 rows of pixels.

    Raises TrocarError for a frame that cannot be read.
    """
    few = replace(data, frames=data.frames.iloc[list(rows)].reset_index(drop=True))
    try:
        found = dict(decoded(few, [size]))
    except OSError as error:
        raise TrocarError(f"{data.root}: {error}") from None
    images = [found[row][0] for row in range(len(rows))]
    return np.stack(images if size is not None else _scaled(images))


def _scaled(images: Sequence[Images]) -> list[Images]:
    """All at the size that keeps the aspect of the first."""
    height, width = images[0].shape[:2]
    shape = max(1, round(width * HEIGHT / height)), HEIGHT
    return [np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)) for image in images]
