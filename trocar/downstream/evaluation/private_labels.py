"""What of labelled data is private: by a mark in its folder or the configuration, or by the shards of its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.private_videos import private_names
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError, nearest
from trocar.privacy.marks import ALL, MARKS, NO_MARKS, Marks, Withheld, marks_in, numbered, withheld


@dataclass(frozen=True)
class Private:
    """`cases`: no frame of them is shown. `names`: theirs, their videos' and all others that must not be read."""

    cases: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def join(cls, parts: Iterable[Private]) -> Private:
        """All of them together."""
        found = list(parts)
        return cls(frozenset().union(*(p.cases for p in found)), frozenset().union(*(p.names for p in found)))

    @property
    def hidden(self) -> Withheld:
        """What takes the names out of a text."""
        return Withheld(self.names)


def private_of(data: LabelledFrames, configured: Marks = NO_MARKS) -> Private:
    """What of a data set is private, by its folder, the configuration and the catalog of its shards.

    Raises ConfigError for a marked case that is not in the data, which may be a misspelt one.
    """
    marked = {str(data.root / MARKS): marks_in(data.root), "private.cases": configured}
    parts = [_marked(data, marks, where) for where, marks in marked.items()]
    parts += [_of_shards(data, data.shards)] if data.shards is not None else []
    return Private.join(parts)


def to_show(predictions: pd.DataFrame, private: Private) -> pd.DataFrame:
    """Rows for figures that others may see: private cases have numbers, and backbones no private name."""
    names, hidden = numbered(sorted(predictions["case"].unique()), private.cases), private.hidden
    backbone = predictions["backbone"].map({name: hidden.text(name) for name in predictions["backbone"].unique()})
    shown: pd.DataFrame = predictions.assign(case=predictions["case"].map(names), backbone=backbone)
    return shown


def names_of(backbones: Iterable[str]) -> set[str]:
    """What the run folders that backbones are from must not show; a backbone may lie some folders below its run."""
    folders = {folder for name in backbones for folder in (Path(name), *Path(name).parents[:3])}
    return {name for folder in folders if folder.is_dir() for name in withheld(folder).names}


def of_marks(table: pd.DataFrame, marks: Marks) -> Private:
    """What marks mean for the columns case and video of a table; marked cases that are not in it are private too."""
    if marks.cases == ALL:
        return _private(table, {*table["case"], *table["video"]}, marks.names)
    found = _private(table, set(marks.cases), marks.names)
    return Private(found.cases | set(marks.cases), found.names | set(marks.cases))


def _marked(data: LabelledFrames, marks: Marks, where: str) -> Private:
    known = {*data.frames["case"], *data.frames["video"]}
    for case in marks.cases if marks.cases != ALL else ():
        if case not in known:
            raise ConfigError(f"{where}: no case or video {case!r} in {data.root}{nearest(case, sorted(known))}")
    return of_marks(data.frames, marks)


def _of_shards(data: LabelledFrames, shards: Path) -> Private:
    catalog = Catalog.open(shards)
    marked = catalog.videos.select(["name", "private"]).to_pylist()
    return _private(data.frames, {str(v["name"]) for v in marked if v["private"]}, private_names(catalog))


def _private(table: pd.DataFrame, marked: set[str], names: Iterable[str]) -> Private:
    """All cases that are marked or of which a video is, with all names of them."""
    pairs = table[["case", "video"]].drop_duplicates()
    cases = set(pairs["case"][pairs["case"].isin(marked) | pairs["video"].isin(marked)])
    videos = set(pairs["video"][pairs["case"].isin(cases)])
    return Private(frozenset(cases), frozenset({*cases, *videos, *names}))
