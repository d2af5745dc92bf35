"""What of a catalog or of labelled data is private: by a mark in its folder or the configuration, or of its videos.

Marks are `private` in a configuration and private.yaml in a data set. They are asked for once, for what is opened for
showing; `Private.hidden` then has an alias for each name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from trocar.core import config
from trocar.core.config import AsWritten, Config, validate
from trocar.core.random import I64
from trocar.errors import ConfigError, nearest
from trocar.privacy.aliases import Aliases, first_called, withheld

if TYPE_CHECKING:
    import pandas as pd


MARKS = "private.yaml"
"""In the folder of a labelled data set of any layout."""
ALL: Literal["all"] = "all"


class PrivacyConfig(Config):
    """What may be seen of what is marked private."""

    share_frames: bool = Field(
        default=False,
        description="show frames, hospitals and case ids of what is private in reports, figures, logs, mlflow and card",
    )


class Marks(Config):
    """What of a data set is private."""

    cases: Literal["all"] | tuple[AsWritten, ...] = Field(
        default=(), description="cases or videos whose frames and names must not be shown, or `all`"
    )
    names: tuple[AsWritten, ...] = Field(
        default=(), description="what else must not be read, such as a hospital in paths and in names of backbones"
    )


NO_MARKS = Marks()


def marks_in(root: Path) -> Marks:
    """What DATA/private.yaml marks; nothing without it. Raises ConfigError for a file that cannot be understood or that
    marks nothing: then it is not known what is private.
    """
    path = root / MARKS
    if not path.is_file():
        return NO_MARKS
    try:
        tree = config.parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `cases: all`, or lists under `cases` and `names`")
    marks = validate(Marks, tree, str(path))
    if marks == NO_MARKS:
        raise ConfigError(f"{path} marks nothing; write `cases: all`, list cases, or remove the file")
    return marks


class MarkedVideos(Protocol):
    """A catalog: `videos` is an arrow table with the columns private, hospital, case_id and name."""

    @property
    def videos(self) -> Any:
        """One row per video."""
        ...

    @property
    def frames(self) -> Any:
        """Columns by name; `video` int[n] is the row of each frame in `videos`."""
        ...


class LabelledData(Protocol):
    """A labelled data set: `frames` has the columns case and video, `shards` is the folder of its pictures, if any."""

    @property
    def root(self) -> Path:
        """Its folder."""
        ...

    @property
    def frames(self) -> pd.DataFrame:
        """One row per frame."""
        ...

    @property
    def shards(self) -> Path | None:
        """The folder with the catalog of its pictures; None where they are files of their own."""
        ...


@dataclass(frozen=True)
class Private:
    """`cases`: no frame of them is shown. `names`: theirs, their videos' and all others that must not be read.

    `called`: aliases that some of the names have already.
    """

    cases: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    called: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Iterable[Private]) -> Private:
        """All of them together; a name is called as by the first that calls it."""
        found = list(parts)
        every = (frozenset().union(*(part.cases for part in found)), frozenset().union(*(part.names for part in found)))
        return cls(*every, first_called(part.called for part in found))

    @cached_property
    def hidden(self) -> Aliases:
        """What stands in the place of the names."""
        return Aliases(self.names, self.cases, self.called)

    def called_as(self, aliases: Aliases) -> Private:
        """The same with these aliases."""
        return replace(self, called=aliases.table)

    def shown(self, cases: Iterable[str]) -> dict[str, str]:
        """Case -> what it is called where others may look: itself, or its alias."""
        return {case: self.hidden.of(case) if case in self.cases else case for case in cases}


def private_of_catalog(catalog: MarkedVideos) -> Private:
    """Cases, hospitals and names of the videos that are marked private."""
    rows = [row for row in _videos(catalog, "hospital", "case_id", "name") if row["private"]]
    names = {str(row[key]) for row in rows for key in ("hospital", "case_id", "name")} - {""}
    return Private(frozenset(str(row["case_id"]) for row in rows), frozenset(names))


def private_names(catalog: MarkedVideos) -> frozenset[str]:
    """Hospitals, case ids and video names of private videos: what must not be shown of them."""
    return private_of_catalog(catalog).names


def is_private(catalog: MarkedVideos, rows: I64) -> npt.NDArray[np.bool_]:
    """bool[n]: whether each of the catalog rows int64[n] is a frame of a private video."""
    marked = np.array([bool(row["private"]) for row in _videos(catalog)], dtype=bool)
    hidden: npt.NDArray[np.bool_] = marked[catalog.frames["video"][rows]]
    return hidden


def private_of(data: LabelledData, configured: Marks = NO_MARKS, catalog: MarkedVideos | None = None) -> Private:
    """What of a data set is private, by its folder, the configuration and the catalog of its shards.

    Raises ConfigError for a marked case that is not in the data, which may be a misspelt one, and TypeError for data
    whose pictures are in shards without their catalog: then it is not known what is private.
    """
    if data.shards is not None and catalog is None:
        raise TypeError(f"what is private of the shards in {data.shards} is in their catalog")
    marked = {str(data.root / MARKS): marks_in(data.root), "private.cases": configured}
    parts = [_marked(data, marks, where) for where, marks in marked.items()]
    if catalog is not None:
        videos = {str(row["name"]) for row in _videos(catalog, "name") if row["private"]}
        parts.append(_private(data.frames, videos, private_names(catalog)))
    return Private.join(parts)


def private_of_marks(table: pd.DataFrame, marks: Marks) -> Private:
    """What marks mean for the columns case and video of a table; marked cases that are not in it are private too."""
    if marks.cases == ALL:
        return _private(table, {*table["case"], *table["video"]}, marks.names)
    found = _private(table, set(marks.cases), marks.names)
    return Private(found.cases | set(marks.cases), found.names | set(marks.cases))


def private_of_runs(backbones: Iterable[str]) -> Private:
    """What the run folders that backbones are from must not show; a backbone may lie some folders below its run."""
    folders = dict.fromkeys(folder for name in backbones for folder in (Path(name), *Path(name).parents[:3]))
    left = Aliases.join([withheld(folder) for folder in folders if folder.is_dir()])
    return Private(names=frozenset(left.names), called=left.table)


def to_show(predictions: pd.DataFrame, private: Private) -> pd.DataFrame:
    """Rows for figures that others may see: private cases and backbones have their aliases."""
    names, hidden = private.shown(predictions["case"].unique()), private.hidden
    backbone = predictions["backbone"].map({name: hidden.text(name) for name in predictions["backbone"].unique()})
    shown: pd.DataFrame = predictions.assign(case=predictions["case"].map(names), backbone=backbone)
    return shown


def _videos(catalog: MarkedVideos, *columns: str) -> Collection[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = catalog.videos.select(["private", *columns]).to_pylist()
    return rows


def _marked(data: LabelledData, marks: Marks, where: str) -> Private:
    known = {*data.frames["case"], *data.frames["video"]}
    for case in marks.cases if marks.cases != ALL else ():
        if case not in known:
            raise ConfigError(f"{where}: no case or video {case!r} in {data.root}{nearest(case, sorted(known))}")
    return private_of_marks(data.frames, marks)


def _private(table: pd.DataFrame, marked: set[str], names: Iterable[str]) -> Private:
    """All cases that are marked or of which a video is, with all names of them."""
    pairs = table[["case", "video"]].drop_duplicates()
    cases = set(pairs["case"][pairs["case"].isin(marked) | pairs["video"].isin(marked)])
    videos = set(pairs["video"][pairs["case"].isin(cases)])
    return Private(frozenset(cases), frozenset({*cases, *videos, *names}))
