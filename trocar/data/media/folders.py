"""What lies below a folder that somebody delivers: links followed once, nothing left out without a word.

The endings of the files that are read as videos and as pictures, wherever such files are looked for.

Names of files as different systems write them: what is the same name, and what is no file of a person's at all.
"""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_VIDEO_KINDS = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts wmv asf vob flv mxf"
_IMAGE_KINDS = "jpg jpeg png bmp tif tiff webp"
VIDEO_SUFFIXES = frozenset(f".{kind}" for kind in _VIDEO_KINDS.split())
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _IMAGE_KINDS.split())


_LEFT_BY_PROGRAMS = {
    "__macosx",  # macOS, in zip files
    "@eadir",  # Synology
    "@recycle",  # QNAP
    "#recycle",  # Synology
    "$recycle.bin",  # Windows
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}


def is_leftover(name: str) -> bool:
    """Whether systems, archives or photo viewers leave files or folders of this name: `._a.jpg`, `__MACOSX`, `@eaDir`,
    `Thumbs.db`, and all that begin with a dot.
    """
    return name.startswith(".") or name.casefold() in _LEFT_BY_PROGRAMS


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC): macOS stores an accent as a character of its own, tables do not."""
    return unicodedata.normalize("NFC", text)


def posix_name(text: str) -> str:
    """A path of a table for comparison: composed, `/` between folders whatever the system, no `./` in front."""
    return composed(text.strip().replace("\\", "/")).removeprefix("./")


def without_ending(text: str) -> str:
    """The name without the ending of a video or picture; any other dot is a part of the name."""
    path = PurePosixPath(text)
    return text.removesuffix(path.suffix) if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES else text


def video_key(text: str) -> str:
    """What two spellings of a video's file name agree in: no folder, no ending, composed letters."""
    return PurePosixPath(without_ending(posix_name(text))).name


@dataclass(frozen=True)
class Omission:
    """What is left out: `what` in words without names, `paths` the things themselves (as far as they are told)."""

    what: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Tree:
    """The files below a folder, sorted by path, and the folders that were not walked."""

    files: tuple[Path, ...]
    omissions: tuple[Omission, ...]


def listed(folder: Path, pattern: str) -> list[Path]:
    """`folder.glob(pattern)`, sorted, without what systems, archives and photo viewers leave behind."""
    found = folder.glob(pattern)
    return sorted(path for path in found if not any(map(is_leftover, path.relative_to(folder).parts)))


def entry(folder: Path, name: str) -> Path:
    """`folder / name`, or what is there under the same name in Unicode's other form."""
    path = folder / name
    if path.exists():
        return path
    return next((other for other in listed(folder, "*") if composed(other.name) == composed(name)), path)


def walk(root: Path) -> Tree:
    """All files below `root` but leftovers (`is_leftover`).

    A linked folder is walked as if it stood there, once: after all real folders, and not if its target is below `root`
    anyway, above it, or linked twice. Then it is an omission, as a folder that cannot be read is.
    """
    top = root.resolve()
    seen = {_identity(folder) for folder in (top, *top.parents)}
    files: list[Path] = []
    again: list[Path] = []
    closed: list[Path] = []
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        if folders:
            folder = folders.popleft()
        else:
            folder = links.popleft()
            if _identity(folder) in seen:
                again.append(folder)
                continue
            seen.add(_identity(folder))
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            closed.append(folder)
            continue
        for entry in found:
            path = folder / entry.name
            if is_leftover(entry.name):
                continue
            if not _is_folder(entry):
                files.append(path)
            elif entry.is_symlink():
                links.append(path)
            else:
                seen.add(_identity(path))
                folders.append(path)
    omissions = (
        Omission("links to folders that are taken where they stand, or hold the source itself", tuple(again)),
        Omission("folders that cannot be read", tuple(closed)),
    )
    return Tree(tuple(sorted(files)), tuple(item for item in omissions if item.paths))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
