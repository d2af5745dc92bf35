"""Find the videos and frame folders of a source, and name them."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trocar.data.ingest.shards import MAX_KEY
from trocar.data.media.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trocar.errors import ConfigError

_MAX_NAME = MAX_KEY - 8  # a key is the name, a dash and seven digits
_PART = re.compile(r"(?P<stem>.+?)(?P<mark>[_ -]?part|[_ -]p|[_ -]teil|[_ -])(?P<part>\d{1,2})", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A video file or a folder of frames: `name` is the unique video id, `shown` the path as the user gave it."""

    name: str
    path: Path
    shown: str
    is_folder: bool
    default_source: str


def find(roots: Sequence[Path], source: str | None) -> list[Found]:
    """Everything to ingest below these paths, by name.

    A folder means the videos in it, else those in its `videos` folder, else all below it. Raises ConfigError for a
    path that does not exist or holds nothing, and for two videos of one name.
    """
    found: dict[str, Found] = {}
    for root in roots:
        for item in _find_one(root, source):
            if item.name in found:
                raise ConfigError(
                    f"{found[item.name].shown} and {item.shown} would both be video {item.name!r}; "
                    "give the folders to separate runs with --prefix, or rename one"
                )
            found[item.name] = item
    return [found[name] for name in sorted(found)]


def prefixed(items: Iterable[Found], prefix: str) -> list[Found]:
    """The same with `prefix` before each name."""
    return [replace(item, name=video_id(prefix + item.name, item.path)) for item in items]


def video_id(text: str, path: Path) -> str:
    """A name fit for keys and file names: letters, digits, `_` and `-`; a dot would split WebDataset keys.

    Letters beyond ASCII are replaced too, and a hash of the whole tells such names apart.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "video"
    if not text.isascii():
        # Composed: some file systems store an accent as a character of its own.
        whole = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
        name += f"-{hashlib.sha256(whole).hexdigest()[:8]}"
    if len(name) > _MAX_NAME:
        raise ConfigError(f"{path}: the video name {name!r} is longer than {_MAX_NAME} characters")
    return name


def named_video(text: str, path: Path) -> str:
    """The video id of a name in a table, which may carry the ending of its file."""
    stem = Path(text).stem if Path(text).suffix.lower() in VIDEO_SUFFIXES else text
    return video_id(stem, path)


def printable(path: str | Path) -> str:
    """A path as text that can be stored and printed: bytes that are no UTF-8 become `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def part_warning(names: Sequence[str]) -> str | None:
    """A warning when names look like numbered parts of one operation (`case07_1`, `case07_2`), else None."""
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        match = _PART.fullmatch(name)
        if match is None:
            continue
        spoken = len(match["mark"]) > 1
        if spoken or re.search(r"\d", match["stem"]):
            groups[match["stem"]][int(match["part"])] = name
    parts = sorted(stem for stem, numbers in groups.items() if len(numbers) > 1 and min(numbers) <= 1)
    if not parts:
        return None
    example = ", ".join(sorted(groups[parts[0]].values())[:2])
    return (
        f"{len(parts)} operations seem to be in numbered parts (such as {example}) but every file is taken as a case "
        "of its own. Parts of one patient in training and test are a leak: give videos.csv a case_id column, "
        "or --case-regex '(?P<case>.+)_(?P<part>[0-9]+)'"
    )


def _find_one(root: Path, source: str | None) -> list[Found]:
    if not root.exists():
        raise ConfigError(f"{root}: no such file or folder")
    label = source or _label(root)
    if root.is_file():
        return [Found(video_id(root.stem, root), root, printable(root), False, label)]
    videos = _videos(root.iterdir()) or _videos((root / "videos").glob("*")) or _videos(root.rglob("*"))
    paths = videos or _frame_folders(root)
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
        raise ConfigError(f"{root}: no videos ({kinds}) and no folders of images in it")
    inner = root / "videos"
    base = inner if all(inner in path.parents for path in paths) else root
    named = []
    for path in paths:
        parts = (path if path.is_dir() else path.with_suffix("")).relative_to(base).parts
        text = "_".join(parts) or path.resolve().name
        named.append(Found(video_id(text, path), path, printable(path), path.is_dir(), label))
    return named


def _label(root: Path) -> str:
    folder = (root.parent if root.is_file() else root).resolve()
    return printable(folder.parent.name if folder.name == "videos" else folder.name)


def _videos(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in VIDEO_SUFFIXES and not p.is_dir() and p.name[0] != ".")


def _frame_folders(root: Path) -> list[Path]:
    return sorted({p.parent for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()})
