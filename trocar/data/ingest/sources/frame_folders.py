"""Folders of frames: which file is which moment. Nothing is guessed: pattern, fps and first number are
given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trocar.data.media.folders import IMAGE_SUFFIXES, is_leftover
from trocar.errors import ConfigError

_FIELD = re.compile(r"\{number(?::0?\d*d)?\}")


@dataclass(frozen=True)
class FrameSpec:
    """How file names give times: the number that `pattern` finds, less `first_number`, over `fps`, in
    seconds.

    `pattern` is a file name with `{number}` or `{number:06d}` in it (`*` and `?` as in the shell), or a
    regular expression with a group `(?P<number>...)`, matched against the whole name.
    """

    pattern: str
    fps: float
    first_number: int

    def compiled(self) -> re.Pattern[str]:
        """Raises ConfigError for a pattern without exactly one number."""
        if "(?P<number>" in self.pattern:
            try:
                return re.compile(self.pattern)
            except re.error as error:
                raise ConfigError(f"--frames {self.pattern!r}: not a regular expression: {error}") from None
        parts = _FIELD.split(self.pattern)
        if len(parts) != 2:
            raise ConfigError(
                f"--frames {self.pattern!r}: say where the frame number stands, such as '{{number:06d}}.jpg' or "
                "'frame_{number}_*.png', or a regular expression with a group (?P<number>\\d+); pictures whose names "
                "say no time are ingested one by one with --stills"
            )
        before, after = (re.escape(part).replace(r"\*", ".*?").replace(r"\?", ".") for part in parts)
        return re.compile(f"{before}(?P<number>\\d+){after}")


@dataclass(frozen=True)
class FrameFile:
    """One frame on disk and its time in seconds."""

    path: Path
    time_s: float


def list_frames(folder: Path, spec: FrameSpec) -> list[FrameFile]:
    """The files that match, in time order.

    Raises ConfigError where none matches, what stands for the number is none, a number is below the first, or two files
    claim one moment.
    """
    found: dict[int, Path] = {}
    for path, text in _matching(folder, spec):
        try:
            number = int(text or "")
        except ValueError:
            raise ConfigError(
                f"{path}: --frames {spec.pattern!r} finds {text!r}, which is no whole number; pictures whose names say "
                "no time are ingested one by one with --stills"
            ) from None
        if number in found:
            raise ConfigError(f"{folder}: {found[number].name} and {path.name} both are number {number}")
        found[number] = path
    if not found:
        raise ConfigError(f"{folder}: no file name matches --frames {spec.pattern!r}")
    if min(found) < spec.first_number:
        raise ConfigError(f"{found[min(found)]}: number {min(found)} is before --first-number {spec.first_number}")
    return [FrameFile(found[n], (n - spec.first_number) / spec.fps) for n in sorted(found)]


def matches_any(folder: Path, spec: FrameSpec) -> bool:
    """Whether the pattern fits a file of the folder at all."""
    return any(True for _ in _matching(folder, spec))


def unmatched(folder: Path, spec: FrameSpec) -> list[str]:
    """Names of the images in the folder that the pattern passes over, sorted."""
    pattern = spec.compiled()
    names = (path.name for path in _files(folder) if path.suffix.lower() in IMAGE_SUFFIXES)
    return [name for name in names if not pattern.fullmatch(name)]


def _matching(folder: Path, spec: FrameSpec) -> Iterator[tuple[Path, str | None]]:
    """Files that fit, by name, and what stands where the number should."""
    pattern = spec.compiled()
    for path in _files(folder):
        if match := pattern.fullmatch(path.name):
            yield path, match["number"]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name) and not path.is_dir())


def thin(frames: list[FrameFile], fps: float) -> Iterator[FrameFile]:
    """The first frame of each interval [k / fps, (k + 1) / fps): gaps stay gaps, nothing is repeated."""
    previous = -1
    for frame in frames:
        interval = int(frame.time_s * fps + 1e-6)
        if interval > previous:
            previous = interval
            yield frame
