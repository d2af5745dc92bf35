"""Files and folders that somebody delivers, before anything is decoded: links followed once, nothing left out without
a word.

A file is regular, not empty, and no longer than its pixels can take; the limits are here, and the error that says why
a file stays out. So are the endings of the files that are read as videos and as pictures, and names of files as
different systems write them: what is the same name, and what is no file of a person's at all.
"""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from trocar.core.config import Config

MAX_SIDE = 65_500
"""Pixels: the longest side that libjpeg writes."""
MOST_PIXELS = 178_956_970
"""Of one picture: Pillow opens none beyond, for it takes them for a decompression bomb."""


class Limits(Config):
    """What is read at most."""

    max_pixels: int = Field(
        36_000_000, ge=1, le=MOST_PIXELS, description="most pixels of a picture; larger ones are rejected"
    )
    max_hours: float = Field(24.0, gt=0, description="longest video in hours; longer ones are rejected")
    max_damaged: int = Field(0, ge=0, description="damaged or missing frames that a video may have")


class RejectError(Exception):
    """This video or image stays out: `reason` is one of a few fixed phrases, `detail` says what was found.

    `quoted` is what the file itself says, which a pseudonymised catalog must not repeat.
    """

    def __init__(self, reason: str, detail: str, quoted: str = "") -> None:
        super().__init__(reason, f"{detail}: {quoted!r}" if quoted else detail)
        self.reason = reason
        self.plain = detail

    def __str__(self) -> str:
        return f"{self.reason}, {self.detail}"

    @property
    def detail(self) -> str:
        """All that was found, with the quotation."""
        return str(self.args[1])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises RejectError for a picture of more than `max_pixels`, or of a side that no JPEG can have."""
    if width * height > max_pixels:
        limit = f"the limit of --max-pixels is {max_pixels}" if max_pixels < MOST_PIXELS else f"over {MOST_PIXELS}"
        raise RejectError("too many pixels", f"{width} x {height}, {limit}")
    if max(width, height) > MAX_SIDE:
        raise RejectError("too many pixels", f"{width} x {height}, no side may have more than {MAX_SIDE}")


def check_file(path: Path) -> None:
    """Raises RejectError for what is no regular file with something in it."""
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None
    if not path.is_file():
        raise RejectError("unreadable", "not a regular file")
    if size == 0:
        raise RejectError("empty file", "0 bytes")


def read_picture(path: Path, max_pixels: int) -> bytes:
    """The bytes of an image file. Raises RejectError for one that can't be read, or is longer than `max_pixels` pixels
    of any format take.
    """
    check_file(path)
    limit = 8 * max_pixels + (1 << 20)
    try:
        size = path.stat().st_size
        if size > limit:
            raise RejectError("too many pixels", f"{size} bytes, more than {max_pixels} pixels can take")
        return path.read_bytes()
    except OSError as error:
        raise RejectError("unreadable", error.strerror or str(error)) from None


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
