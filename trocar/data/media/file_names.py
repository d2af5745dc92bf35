"""Names of files as different systems write them: what is the same name, and what is no file of a person's at all."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from trocar.data.media.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

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
