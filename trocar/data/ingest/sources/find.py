"""Find the videos and folders of pictures of a source, and name them.

In a folder of frames, which file is which moment is never guessed: pattern, fps and first number are given.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trocar.data.ingest.shard_writer import MAX_KEY
from trocar.data.media.delivered_files import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Omission,
    composed,
    is_leftover,
    posix_name,
    walk,
)
from trocar.errors import ConfigError

MAX_NAME = MAX_KEY - 8  # a key is the name, a dash and seven digits
_PART = re.compile(r"(?P<stem>.+?)(?P<mark>[_ -]?part|[_ -]p|[_ -]teil|[_ -])(?P<part>\d{1,2})", re.IGNORECASE)


# Pictures and films that nobody here can read; text and tables are not meant to be.
_UNREAD_KINDS = (
    "3gp avif dcm dicom divx dng dv f4v gif h264 h265 heic heif hevc ima jfif jp2 m2v mod mpv nii ogm ogv raw rm rmvb "
    "svo tod y4m yuv"
)
_UNREAD = frozenset(f".{kind}" for kind in _UNREAD_KINDS.split())


@dataclass(frozen=True)
class FoundSource:
    """A video file, a folder of frames with its `pictures`, or one isolated picture: `name` is the unique video id,
    `shown` the path as the user gave it, `relative` the path below the source as a table would write it.
    """

    name: str
    path: Path
    shown: str
    is_folder: bool
    default_source: str
    relative: str = ""
    pictures: tuple[Path, ...] = ()
    is_still: bool = False

    @property
    def cased_by(self) -> str:
        """What --case-regex is matched against: of a still its whole path, since its folder may be the patient."""
        return self.relative if self.is_still else self.name


@dataclass(frozen=True)
class Sources:
    """What lies below the sources: `items` to ingest, and folders of pictures `beside` videos, which are ingested where
    it is said how; `omissions` is what stays out.
    """

    items: tuple[FoundSource, ...]
    beside: tuple[FoundSource, ...] = ()
    omissions: tuple[Omission, ...] = ()


def find(roots: Sequence[Path], source: str | None, *, stills: bool = False) -> Sources:
    """Everything to ingest below these paths; with `stills` a path may be a single picture.

    A folder means all videos below it (those in its `videos` folder, where it has such a one and none of its own), and
    all folders of pictures where there are no videos. Raises ConfigError for a path that does not exist or holds
    nothing.
    """
    parts = [_find_one(root, source, stills) for root in roots]
    return Sources(*(tuple(thing for part in parts for thing in getattr(part, key)) for key in vars(parts[0])))


def by_name(items: Iterable[FoundSource]) -> list[FoundSource]:
    """Sorted. Raises ConfigError for two of one name."""
    found: dict[str, FoundSource] = {}
    for item in items:
        if item.name in found:
            raise ConfigError(
                f"{found[item.name].shown} and {item.shown} would both be video {item.name!r}; "
                "give the folders to separate runs with --prefix, or rename one"
            )
        found[item.name] = item
    return [found[name] for name in sorted(found)]


def prefixed(sources: Sources, prefix: str) -> Sources:
    """The same with `prefix` before each name."""

    def named(items: Iterable[FoundSource]) -> tuple[FoundSource, ...]:
        return tuple(replace(item, name=video_id(prefix + item.name, item.path)) for item in items)

    return replace(sources, items=named(sources.items), beside=named(sources.beside)) if prefix else sources


def fit_name(text: str) -> str:
    """A name fit for keys and file names: letters, digits, `_` and `-`; a dot would split WebDataset keys.

    Letters beyond ASCII are replaced too, and a hash of the whole tells such names apart.
    """
    text = composed(text)  # some file systems store an accent as a character of its own
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_") or "video"
    if not text.isascii():
        name += f"-{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return name


def video_id(text: str, path: Path) -> str:
    """`fit_name`. Raises ConfigError, naming the path, for one that is too long for the key of a frame."""
    name = fit_name(text)
    if len(name) > MAX_NAME:
        raise ConfigError(f"{path}: the video name {name!r} is longer than {MAX_NAME} characters")
    return name


def printable(path: str | Path) -> str:
    r"""A path as text that can be stored and printed: bytes that are no UTF-8 become `\xNN`."""
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


def _find_one(root: Path, source: str | None, stills: bool) -> Sources:
    if not root.exists():
        raise ConfigError(f"{root}: no such file or folder")
    label = source or _label(root)
    if root.is_file() and root.suffix.lower() == ".tar":
        raise ConfigError(f"{root} is a tar: --in-place makes a catalog of the pictures in it")
    if root.is_file() and root.suffix.lower() in IMAGE_SUFFIXES:
        if not stills:
            raise ConfigError(f"{root} is a single picture: --stills takes pictures one by one")
        return Sources((FoundSource(label, root.parent, printable(root.parent), True, label, "", (root,)),))
    if root.is_file():
        return Sources(
            (FoundSource(video_id(root.stem, root), root, printable(root), False, label, printable(root.name)),)
        )
    tree = walk(root)
    videos = [path for path in tree.files if path.suffix.lower() in VIDEO_SUFFIXES]
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in tree.files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            folders[path.parent].append(path)
    if not videos and not folders:
        kinds = ", ".join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
        raise ConfigError(f"{root}: no videos ({kinds}) and no folders of images in it{_unread_kinds(tree.files)}")
    inner, elsewhere = root / "videos", list[Path]()
    if any(path.parent == inner for path in videos) and not any(path.parent == root for path in videos):
        elsewhere = [path for path in videos if inner not in path.parents]
        videos = [path for path in videos if inner in path.parents]
    base = inner if all(inner in path.parents for path in videos or folders) else root
    items = [_named(path, base, root, label) for path in videos]
    frames = [_named(path, base, root, label, pictures) for path, pictures in sorted(folders.items())]
    unread = tuple(path for path in tree.files if path.suffix.lower() in _UNREAD)
    omissions = (
        Omission(f"videos outside of {inner.name}/, which is taken as the folder of the videos", tuple(elsewhere)),
        Omission(f"files of kinds that are not read ({_kinds(unread)})", unread),
        *tree.omissions,
    )
    kept = tuple(item for item in omissions if item.paths)
    return Sources(tuple(items), tuple(frames), kept) if items else Sources(tuple(frames), (), kept)


def _named(path: Path, base: Path, root: Path, label: str, pictures: Sequence[Path] = ()) -> FoundSource:
    below = path if pictures else path.with_suffix("")
    text = "_".join(below.relative_to(base if base in path.parents else root).parts) or path.resolve().name
    relative = posix_name(printable(path.relative_to(root).as_posix())) if path != root else ""
    return FoundSource(video_id(text, path), path, printable(path), bool(pictures), label, relative, tuple(pictures))


def _unread_kinds(files: Sequence[Path]) -> str:
    unread = [path for path in files if path.suffix.lower() in _UNREAD]
    return f"; files of kinds that are not read: {_kinds(unread)}" if unread else ""


def _kinds(paths: Sequence[Path]) -> str:
    counts = Counter(path.suffix.lower() for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _label(root: Path) -> str:
    folder = (root.parent if root.is_file() else root).resolve()
    return printable(folder.parent.name if folder.name == "videos" else folder.name)


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
