"""What of labelled data is private: a mark in its folder or in the configuration, or the shards its frames come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from trocar.config import Config, validate
from trocar.data.catalog import Catalog
from trocar.data.privacy import private_names
from trocar.downstream.datasets.table import LabelledFrames
from trocar.errors import ConfigError, nearest
from trocar.privacy import Withheld, numbered, withheld

FILE = "private.yaml"
"""In the folder of a data set of any layout."""
ALL: Literal["all"] = "all"


class Marks(Config):
    """`cases`: cases or videos whose frames and names must not be shown, or `all`; `names`: what else must not be read,
    such as a hospital in paths and in names of backbones.
    """

    cases: Literal["all"] | list[str] = []
    names: list[str] = []


@dataclass(frozen=True)
class Private:
    """`cases`: no frame of them is shown. `names`: theirs, their videos' and all others that must not be read."""

    cases: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    @property
    def hidden(self) -> Withheld:
        """What takes the names out of a text."""
        return Withheld(self.names)


def marks_in(root: Path) -> Marks:
    """What DATA/private.yaml marks; nothing without it. Raises ConfigError for a file that cannot be understood or that
    marks nothing: then it is not known what is private.
    """
    path = root / FILE
    if not path.is_file():
        return Marks()
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `cases: all`, or lists under `cases` and `names`")
    marks = validate(Marks, tree, str(path))
    if marks == Marks():
        raise ConfigError(f"{path} marks nothing; write `cases: all`, list cases, or remove the file")
    return marks


def private_of(data: LabelledFrames, configured: Marks = Marks()) -> Private:
    """What of a data set is private, by its folder, the configuration and the catalog of its shards.

    Raises ConfigError for a marked case that is not in the data, which may be a misspelt one.
    """
    marked = {str(data.root / FILE): marks_in(data.root), "private.cases": configured}
    parts = [_marked(data, marks, where) for where, marks in marked.items()]
    parts += [_of_shards(data, data.shards)] if data.shards is not None else []
    return Private(frozenset().union(*(p.cases for p in parts)), frozenset().union(*(p.names for p in parts)))


def to_show(predictions: pd.DataFrame, private: Private) -> pd.DataFrame:
    """Rows for figures that others may see: private cases have numbers, and backbones no private name."""
    names, hidden = numbered(sorted(predictions["case"].unique()), private.cases), private.hidden
    backbone = predictions["backbone"].map({name: hidden.text(name) for name in predictions["backbone"].unique()})
    return predictions.assign(case=predictions["case"].map(names), backbone=backbone)


def names_of(backbones: Iterable[str]) -> set[str]:
    """What the run folders that backbones are from must not show; a backbone may lie some folders below its run."""
    folders = {folder for name in backbones for folder in (Path(name), *Path(name).parents[:3])}
    return {name for folder in folders if folder.is_dir() for name in withheld(folder).names}


def _marked(data: LabelledFrames, marks: Marks, where: str) -> Private:
    known = {*data.frames["case"], *data.frames["video"]}
    if marks.cases == ALL:
        return _private(data, known, marks.names)
    for case in marks.cases:
        if case not in known:
            raise ConfigError(f"{where}: no case or video {case!r} in {data.root}{nearest(case, sorted(known))}")
    return _private(data, set(marks.cases), marks.names)


def _of_shards(data: LabelledFrames, shards: Path) -> Private:
    catalog = Catalog.open(shards)
    marked = catalog.videos.select(["name", "private"]).to_pylist()
    return _private(data, {str(video["name"]) for video in marked if video["private"]}, private_names(catalog))


def _private(data: LabelledFrames, marked: set[str], names: Iterable[str]) -> Private:
    """All cases that are marked or of which a video is, with all names of them."""
    table = data.frames[["case", "video"]].drop_duplicates()
    cases = set(table["case"][table["case"].isin(marked) | table["video"].isin(marked)])
    videos = set(table["video"][table["case"].isin(cases)])
    return Private(frozenset(cases), frozenset({*cases, *videos, *names}))
