"""Merging the classes of masks by a file, as published comparisons do (CholecSeg8k's 13 classes -> 8).

A file lists the `classes` it makes, in order, and under `merge` for every class of the data set which of them it
becomes, or `ignore`: its pixels are not scored. Everything goes by name.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field

from trocar.core.config import Config, validate
from trocar.downstream.datasets.readers.masks import look_up
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask
from trocar.errors import ConfigError, nearest

FOLDER = Path(__file__).parents[1] / "remaps"
IGNORE = "ignore"


class Remap(Config):
    """How classes of masks are merged."""

    about: str = Field(default="", description="who merges so")
    classes: tuple[str, ...] = Field(description="the new classes, index 0 first")
    merge: dict[str, str] = Field(
        description="class of the data set -> new class, or `ignore`: its pixels are not scored"
    )


def remap_names() -> list[str]:
    """Names of the files that come with Trocar."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_remap(name: str) -> Remap:
    """Read a remap by name or path. Raises ConfigError for one that is missing or contradicts itself."""
    path = FOLDER / f"{name}.yaml" if name in remap_names() else Path(name)
    if not path.is_file():
        raise ConfigError(
            f"no remap {name!r}{nearest(name, remap_names())}; known: {', '.join(remap_names())}, or a file"
        )
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `classes` and `merge`")
    remap = validate(Remap, tree, str(path))
    _check(remap, path)
    return remap


class _UniqueKeys(yaml.BaseLoader):
    """All values are text as written, so that `no` and `01` name classes. A class that is listed twice is an error;
    YAML's own rule is that the last one counts.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is listed twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _check(remap: Remap, path: Path) -> None:
    if len(set(remap.classes)) != len(remap.classes) or IGNORE in remap.classes:
        raise ConfigError(f"{path}: classes: names must differ, and `{IGNORE}` is none")
    allowed = (*remap.classes, IGNORE)
    for source, target in remap.merge.items():
        if target not in allowed:
            raise ConfigError(f"{path}: merge.{source}: no class {target!r}{nearest(target, allowed)}")
    unused = [name for name in remap.classes if name not in remap.merge.values()]
    if unused:
        raise ConfigError(f"{path}: classes: nothing becomes {unused[0]!r}")


def remap_masks(data: LabelledFrames, name: str) -> LabelledFrames:
    """The same frames with merged classes of masks.

    Raises ConfigError where there are no masks, or where a class of the data set is not in the file or the other way
    round.
    """
    remap = load_remap(name)
    spaces = [space for space in data.spaces if space.kind == "mask"]
    if not spaces:
        raise ConfigError(
            f"remap {name!r}: {data.root} ({data.layout}) has no masks; its tasks: {', '.join(data.tasks)}"
        )
    merged = {space.task: _merged(space, remap, name) for space in spaces}
    return replace(data, spaces=tuple(merged.get(space.task, space) for space in data.spaces))


def _merged(space: LabelSpace, remap: Remap, name: str) -> LabelSpace:
    for source in remap.merge:
        if source not in space.classes:
            raise ConfigError(f"remap {name!r}: the data set has no class {source!r}{nearest(source, space.classes)}")
    missing = [source for source in space.classes if source not in remap.merge]
    if missing:
        raise ConfigError(f"remap {name!r}: says nothing of the class {missing[0]!r}")
    table = np.full(256, -1, dtype=np.int16)
    table[IGNORED_PIXEL] = IGNORED_PIXEL
    for i, source in enumerate(space.classes):
        target = remap.merge[source]
        table[i] = IGNORED_PIXEL if target == IGNORE else remap.classes.index(target)
    return replace(
        space,
        classes=remap.classes,
        unscored=(),
        background=_background(space, remap),
        read_mask=partial(_read, space, table),
        merged_from=space,
    )


def _background(space: LabelSpace, remap: Remap) -> int | None:
    """The class that the background becomes, where nothing else becomes it as well."""
    name = space.background_name
    target = None if name is None else remap.merge[name]
    if target in (None, IGNORE) or list(remap.merge.values()).count(str(target)) > 1:
        return None
    return remap.classes.index(str(target))


def _read(space: LabelSpace, table: npt.NDArray[np.int16], path: Path) -> Mask:
    return look_up(space.mask_at(path), table, path)
