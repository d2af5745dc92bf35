"""Pooled features of anyone's pictures, videos or shards, from any backbone.

A picture is squashed to the backbone's square input, as evaluation does it: a centre crop would cut off the sides,
where instruments enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from trocar.backbones import own_module
from trocar.backbones.device import Wanted, choose_device, resolved
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import (
    Embedder,
    describe_backbone,
    fit_input_size,
    require_finite_features,
    usual_batch,
)
from trocar.core.files import replacing, write_atomic
from trocar.core.resources import granted_cores
from trocar.data.catalog.catalog import FOLDER, Catalog
from trocar.data.media.delivered_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, RejectError, listed
from trocar.data.media.frame_conversion import Scaler, to_rgb
from trocar.data.media.still import read_still
from trocar.data.media.video_index import numbered_pictures, read_index
from trocar.data.remote.store import is_remote
from trocar.downstream.datasets.readers.videos import Clip
from trocar.errors import ConfigError, TrocarError

Source = str | Path | Catalog | npt.NDArray[np.uint8] | Sequence[str | Path]
Progress = Callable[[int, int], None]
Item = TypeVar("Item")
ENDINGS = (".parquet", ".npy")
"""Of the files that features are written to."""


@dataclass(frozen=True)
class EmbeddedFrames:
    """`features` float32 [n, D], and what each of them is of: a table of n `rows`.

    `path` (and of videos `frame`, counted from 0, and `time_s`), or of shards `row` in the catalog, `source`,
    `case_id`, `video` and `time_s`; none of these for arrays.
    """

    features: npt.NDArray[np.float32]
    rows: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """`rows` with a column for each feature, f0, f1 and so on."""
        names = [f"f{i}" for i in range(self.features.shape[1])]
        return self.rows.join(pd.DataFrame(self.features, columns=names, index=self.rows.index))

    def write(self, path: Path) -> list[Path]:
        """Write the table as .parquet, or the features as .npy with the rows beside them as .csv; returns the files.

        Raises ConfigError for another ending.
        """
        if path.suffix == ".parquet":
            with replacing(path) as place:
                self.table.to_parquet(place, index=False)
            return [path]
        if path.suffix not in ENDINGS:
            raise ConfigError(f"{path}: give a file name that ends in {' or '.join(ENDINGS)}")
        with replacing(path) as place, place.open("wb") as file:
            np.save(file, self.features)
        write_atomic(path.with_suffix(".csv"), self.rows.to_csv(index=False))
        return [path, path.with_suffix(".csv")]


def embed(
    source: Source,
    backbone: str | Path | nn.Module,
    *,
    size: int | None = None,
    fps: float = 1.0,
    batch: int | None = None,
    device: str = "auto",
    precision: Wanted = "auto",
    progress: Progress = lambda done, total: None,
) -> EmbeddedFrames:
    """Pooled features of `source` from a frozen `backbone` (a name as for `load_backbone`, or a module).

    `source` is a shards folder or its catalog; a picture, a video or a folder of them, or a sequence of such paths; or
    an array uint8 [n, height, width, 3] in RGB. `size` is the side of the square input in pixels (None: what the
    backbone was trained with), `fps` how many frames a second of videos are taken, `batch` frames at a time (None: as
    many as suit the device). `progress(done, total)` is called now and then; a module that is handed in stays as it is.
    Raises ConfigError for a source or backbone that means nothing, TrocarError for a picture that cannot be read, or
    features that are NaN or infinite.
    """
    model = own_module.adopt(backbone) if isinstance(backbone, nn.Module) else load_backbone(backbone)
    shape = describe_backbone(model)
    side = size or shape.size[0]
    where = choose_device(device)
    pictures, rows = _pictures(source, fps)
    embedder = Embedder(
        fit_input_size(model, side), shape, where, resolved(precision, torch.device(where)), halving=batch is None
    )
    parts: list[npt.NDArray[np.float32]] = []
    done = 0
    progress(done, len(rows))
    for found in embedder.stream(_batches(pictures, side, batch or usual_batch(where))):
        require_finite_features(found, _called(backbone), np.arange(done, done + len(found)))
        parts.append(found)
        done += len(found)
        progress(done, len(rows))
    if not parts:
        raise ConfigError(f"{_named(source)}: no picture in it")
    return EmbeddedFrames(np.concatenate(parts), rows)


def _called(backbone: str | Path | nn.Module) -> str:
    return type(backbone).__name__ if isinstance(backbone, nn.Module) else str(backbone)


def _named(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__


def _pictures(source: Source, fps: float) -> tuple[Iterator[Image.Image], pd.DataFrame]:
    """The pictures in order, read as they are asked for, and what each of them is."""
    if isinstance(source, np.ndarray):
        if source.ndim != 4 or source.shape[-1] != 3 or source.dtype != np.uint8:
            raise ConfigError(f"expected an array uint8 [n, height, width, 3], got {source.dtype} {source.shape}")
        return (Image.fromarray(pixels) for pixels in source), pd.DataFrame(index=range(len(source)))
    if isinstance(source, Catalog):
        return _of_catalog(source)
    if isinstance(source, str | Path):
        if is_remote(source) or (Path(source) / FOLDER).is_dir():
            return _of_catalog(Catalog.open(source))
        return _of_files(_listed(Path(source)), fps)
    return _of_files([file for path in source for file in _listed(Path(path))], fps)


def _of_catalog(catalog: Catalog) -> tuple[Iterator[Image.Image], pd.DataFrame]:
    video = catalog.frames["video"]
    columns = {name: catalog.videos[name].to_numpy()[video] for name in ("source", "case_id", "name")}
    rows = pd.DataFrame({"row": np.arange(len(catalog)), **columns, "time_s": catalog.frames["time_s"]})
    return _in_threads(catalog.__getitem__, range(len(catalog))), rows.rename(columns={"name": "video"})


def _listed(path: Path) -> list[Path]:
    """The file, or the pictures and videos below the folder in the order of their names."""
    if not path.is_dir():
        return [path]
    return [one for one in listed(path, "**/*") if one.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]


def _of_files(paths: Sequence[Path], fps: float) -> tuple[Iterator[Image.Image], pd.DataFrame]:
    clips: dict[Path, tuple[Clip, npt.NDArray[np.int64]]] = {}
    tables = []
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file or folder")
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            tables.append(pd.DataFrame({"path": [str(path)], "frame": [-1], "time_s": [np.nan]}))
            continue
        clip = _opened(path)
        numbers = clip.grid(clip.frames - 1, fps)
        clips[path] = clip, numbers
        tables.append(pd.DataFrame({"path": str(path), "frame": numbers, "time_s": clip.seconds(numbers)}))
    if not tables:
        return iter(()), pd.DataFrame({"path": []})
    rows = pd.concat(tables, ignore_index=True)
    return _read_files(paths, clips), rows if clips else rows[["path"]]


def _opened(path: Path) -> Clip:
    try:
        return Clip(path, read_index(path))
    except RejectError as error:
        raise TrocarError(f"{path}: {error}") from None


def _read_files(paths: Sequence[Path], clips: dict[Path, tuple[Clip, npt.NDArray[np.int64]]]) -> Iterator[Image.Image]:
    stills: list[Path] = []
    for path in [*paths, None]:  # pictures that follow each other are decoded by several threads
        if path is not None and path not in clips:
            stills.append(path)
            continue
        yield from _in_threads(_read_picture, stills)
        stills = []
        if path is not None:
            yield from _read_video(*clips[path])


def _read_picture(path: Path) -> Image.Image:
    try:
        return read_still(path)
    except RejectError as error:
        raise TrocarError(f"{path}: {error}") from None


def _read_video(clip: Clip, numbers: npt.NDArray[np.int64]) -> Iterator[Image.Image]:
    scaler = Scaler()
    try:
        for _, picture in numbered_pictures(clip.path, clip.index, numbers.tolist(), granted_cores()):
            yield to_rgb(picture, scaler)
    except RejectError as error:
        raise TrocarError(f"{clip.path}: {error}") from None


def _in_threads(read: Callable[[Item], Image.Image], items: Sequence[Item]) -> Iterator[Image.Image]:
    """`read` of each, in order, with no more of them at a time than threads have use for."""
    at_once = 4 * granted_cores()
    with ThreadPoolExecutor(granted_cores()) as pool:
        for start in range(0, len(items), at_once):
            yield from pool.map(read, items[start : start + at_once])


def _batches(pictures: Iterable[Image.Image], size: int, batch: int) -> Iterator[Tensor]:
    """uint8 [b, 3, size, size]."""
    held: list[npt.NDArray[np.uint8]] = []
    for picture in pictures:
        held.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8))
        if len(held) == batch:
            yield torch.from_numpy(np.stack(held)).permute(0, 3, 1, 2)
            held = []
    if held:
        yield torch.from_numpy(np.stack(held)).permute(0, 3, 1, 2)
