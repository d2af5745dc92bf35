"""Reading masks as they are published: one channel of any depth, three equal ones, an alpha channel, palettes.

What classes.yaml says of masks beside the names of their classes: which is the background, and what 255 is.

Merging their classes by a file, as published comparisons do (CholecSeg8k's 13 classes -> 8). It lists the `classes` it
makes, in order, and under `merge` for every class of the data set which of them it becomes, or `ignore`: its pixels are
not scored. Everything goes by name.
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
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from trocar.core import config
from trocar.core.config import Config, validate
from trocar.downstream.labels import IGNORED_PIXEL, LabelledFrames, LabelSpace, Mask
from trocar.errors import ConfigError, TrocarError, nearest

_SPREAD = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the samples of a grey picture of 2 or 4 bits by, so that its largest is white."""
_WHOLE = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSY = (".jpg", ".jpeg", ".webp")


def open_mask(path: Path) -> Image.Image:
    """The decoded picture, turned upright where it says how it lies, as pictures are. Raises TrocarError for a file
    that is none.
    """
    return _decoded(path)[0]


def _decoded(path: Path) -> tuple[Image.Image, str]:
    """With the layout of its samples in the file, which Pillow's mode may not have any more."""
    try:
        with Image.open(path) as image:
            layout = image.tile[0][3] if image.tile else ""
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise TrocarError(f"{path}: cannot be decoded as a mask: {error}") from None
    first = layout[0] if isinstance(layout, tuple) and layout else layout
    return upright, str(first or "")


def read_values(path: Path) -> Mask:
    """uint8 [H, W]: the number that the file holds for each pixel.

    One bit gives 0 and 1, two bits 0 to 3, four bits 0 to 15; 16 bits their number; a palette the index, not the
    colour; several channels the value that they share, without an alpha channel. Raises TrocarError for a picture in
    colour, numbers above 255 or with decimals, and where only the alpha channel holds anything.
    """
    image, layout = _decoded(path)
    if image.mode == "P":
        return np.array(image, dtype=np.uint8)
    if image.mode == "1":
        return np.array(image, dtype=bool).astype(np.uint8)
    if image.mode in _WHOLE:
        return _small(np.array(image), path)
    values: Mask = _grey(image, layout, path) // np.uint8(_SPREAD.get(layout, 1))
    return values


def read_grey(path: Path) -> Mask:
    """uint8 [H, W]: the grey value of each pixel, 0 black and 255 white at any depth up to 8 bits; the value that the
    colour channels share, without an alpha channel.

    Raises TrocarError as `read_values`.
    """
    image, layout = _decoded(path)
    return _small(np.array(image), path) if image.mode in _WHOLE else _grey(image, layout, path)


def _grey(image: Image.Image, layout: str, path: Path) -> Mask:
    if ";16" in layout:
        raise TrocarError(f"{path}: channels of 16 bits; a mask has one channel, of 8 or 16 bits")
    if image.mode == "F":
        raise TrocarError(f"{path}: numbers with decimals; a mask holds whole numbers, one channel of 8 or 16 bits")
    if image.mode == "L":
        return np.array(image, dtype=np.uint8)
    values = np.array(image.convert("RGB"), dtype=np.uint8)
    differ = (values != values[..., :1]).any(axis=-1)
    if differ.any():
        raise TrocarError(
            f"{path}: its channels differ; expected a grey mask, this is in colour (such as "
            f"{tuple(values[differ][0].tolist())}); write the number of the class into one channel"
        )
    grey: Mask = np.ascontiguousarray(values[..., 0])
    if "A" in image.getbands() and (grey == grey[0, 0]).all():
        low, high = image.getchannel("A").getextrema()
        if low != high:
            raise TrocarError(
                f"{path}: its pixels differ in the alpha channel alone, which is not read; write the number of the "
                "class into one channel without alpha"
            )
    return grey


def _small(values: npt.NDArray[np.generic], path: Path) -> Mask:
    numbers = values.astype(np.int64)
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) > IGNORED_PIXEL:
        raise TrocarError(
            f"{path}: holds {numbers.min()} to {numbers.max()}; a mask holds numbers of classes, 0 to 254, or "
            f"{IGNORED_PIXEL}: not scored"
        )
    return numbers.astype(np.uint8)


def read_indices(path: Path, classes: int) -> Mask:
    """uint8 [H, W] of a mask whose value (`read_values`) is the class index, 0 to `classes` - 1, or 255: not scored.

    Raises TrocarError for any other value.
    """
    return checked(read_values(path), classes, path)


def look_up(mask: Mask, table: npt.NDArray[np.int16], path: Path) -> Mask:
    """`table[value]` per pixel; -1 in the table is a value that must not occur. Raises TrocarError if it does."""
    found = table[mask]
    if (found < 0).any():
        strangers = sorted({int(value) for value in mask[found < 0]})
        raise TrocarError(f"{path}: the mask holds unknown values {strangers[:10]}{_lossy(path)}")
    return found.astype(np.uint8)


def checked(mask: Mask, classes: int, path: Path) -> Mask:
    """The mask itself. Raises TrocarError for values that are neither a class nor 255."""
    strangers = np.unique(mask[(mask >= classes) & (mask != IGNORED_PIXEL)])
    if len(strangers):
        raise TrocarError(
            f"{path}: the mask holds {strangers[:10].tolist()}, but there are {classes} classes (0 to {classes - 1}; "
            f"{IGNORED_PIXEL}: not scored){_lossy(path)}"
        )
    return mask


def _lossy(path: Path) -> str:
    if path.suffix.lower() not in _LOSSY:
        return ""
    return f"; {path.suffix} files change the values they are given: save masks as PNG"


BACKGROUND, NOT_SCORED = "background", "not_scored"
MASK_KEYS = (BACKGROUND, NOT_SCORED)
NONE = ("", "null", "none")


def mask_keys(path: Path, classes: tuple[str, ...]) -> tuple[int | None, bool]:
    """(index of the background class, or None; whether 255 is said to mean `not scored`).

    `background: NAME` names the class; without it a class called background is the one, and an empty value says that
    there is none. Raises TrocarError for a name that is no class, and for a `not_scored` other than 255.
    """
    # Labels that are no file name their classes beside them: then no classes.yaml need be there.
    tree = config.parse_yaml_texts(path.read_text(encoding="utf-8")) if path.is_file() else {}
    white = tree.get(NOT_SCORED)
    if white not in (None, str(IGNORED_PIXEL)):
        raise TrocarError(
            f"{path}: {NOT_SCORED}: {white!r}: the one value that is not scored is {IGNORED_PIXEL}; say "
            f"`{NOT_SCORED}: {IGNORED_PIXEL}`, or leave the key out"
        )
    lower = [name.lower() for name in classes]
    if BACKGROUND not in tree:
        return (lower.index(BACKGROUND) if BACKGROUND in lower else None), white is not None
    name = str(tree[BACKGROUND])
    if name in classes:
        return classes.index(name), white is not None
    if name.lower() in NONE:
        return None, white is not None
    raise TrocarError(f"{path}: {BACKGROUND}: no class {name!r}{nearest(name, classes)}; classes: {', '.join(classes)}")


FOLDER = Path(__file__).parents[2] / "remaps"
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
