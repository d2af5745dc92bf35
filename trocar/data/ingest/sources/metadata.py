"""What the user knows of the videos: videos.csv, exclude.csv, masks, and the case of a file name.

A table means a video or folder by its name in the catalog or by that of its file, in either Unicode form.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from trocar.core import config, tables
from trocar.data.ingest.record import Metadata
from trocar.data.ingest.sources.find import FoundSource, FrameSpec, video_id
from trocar.data.labelled_data import check_tag
from trocar.data.media.delivered_files import posix_name, without_ending
from trocar.errors import ConfigError, nearest


class Lookup:
    """Found videos by what a table may call them.

    Asked in this order: the path below the source, the video id, the path without its ending, the file's name, the
    same without its ending; the first that fits anything decides. `aliases` are further names, such as pseudonyms.
    """

    def __init__(
        self, items: Iterable[FoundSource], prefix: str = "", aliases: Mapping[str, FoundSource] | None = None
    ) -> None:
        items = list(items)
        self.names = [item.name for item in items]
        names: dict[str, list[FoundSource]] = defaultdict(list)
        for item in items:
            names[item.name].append(item)
            if prefix and item.name.startswith(prefix):
                names[item.name.removeprefix(prefix)].append(item)
        for name, item in (aliases or {}).items():
            names[name].append(item)
        self._tables = (
            (posix_name, _by(items, lambda path: path)),
            (_id, names),
            (_bare, _by(items, without_ending)),
            (posix_name, _by(items, lambda path: PurePosixPath(path).name)),
            (_bare, _by(items, lambda path: without_ending(PurePosixPath(path).name))),
        )

    def find(self, text: str, where: str) -> FoundSource | None:
        """The video that `text` means, None for none. Raises ConfigError, naming `where`, if it may be several."""
        for spelled, table in self._tables:
            fitting = table.get(spelled(text), [])
            if len(fitting) > 1:
                some = ", ".join(item.relative for item in fitting[:3]) + (" ..." if len(fitting) > 3 else "")
                raise ConfigError(f"{where}: {text!r} may be {some}: give its whole path")
            if fitting:
                return fitting[0]
        return None


def _by(items: Iterable[FoundSource], key: Callable[[str], str]) -> dict[str, list[FoundSource]]:
    table: dict[str, list[FoundSource]] = defaultdict(list)
    for item in items:
        table[key(item.relative)].append(item)
    return table


def _bare(text: str) -> str:
    return without_ending(posix_name(text))


def _id(text: str) -> str:
    bare = _bare(text)
    try:
        return video_id(bare, Path(text)) if bare else ""
    except ConfigError:
        return ""  # too long for the name of a video, so of none of these


STILLS = "stills"
"""In the column `frames`: these are isolated pictures."""
COLUMNS = {
    "video": "name of the file, with or without its ending and folders, or of the frame folder (required)",
    "case_id": "operation of one patient; files of one case share it",
    "part": "number of the file within its case, from 1, in time order",
    "source": "data set",
    "hospital": "where it was recorded",
    "procedure": "kind of operation",
    "robotic": "true or false",
    "split": "tags, separated by semicolons",
    "private": "true for data that must not be shown",
    "frames": f"pattern of frame names, for folders of frames, or `{STILLS}` for isolated pictures",
    "frames_fps": "frame numbers per second, for folders of frames",
    "first_number": "frame number at time 0, for folders of frames",
}
_IGNORED = {"fps", "duration_s"}  # known from the file itself
_TRUE, _FALSE = {"true", "yes", "1", "y"}, {"false", "no", "0", "n"}


Find = Callable[[str, str], FoundSource | None]
"""find(text, where): what a name in a table means, None for nothing; raises ConfigError where it may be several."""


@dataclass(frozen=True)
class VideoTable:
    """videos.csv by the path of what a row describes; `path` is None where there is none, `strangers` are names of
    nothing.
    """

    path: Path | None = None
    rows: Mapping[Path, Mapping[str, str]] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    strangers: Sequence[str] = ()

    def of(self, path: Path) -> Mapping[str, str]:
        """The row of a video or folder, empty where it has none."""
        return self.rows.get(path, {})

    def row(self, item: FoundSource) -> Mapping[str, str]:
        """What is said of a video, a folder or a still."""
        return self.inherited(item.path) if item.is_still else self.of(item.path)

    def inherited(self, path: Path) -> Mapping[str, str]:
        """The row of a picture, its empty cells filled from the rows of the folders it lies in, the nearest first."""
        above = (self.rows[place] for place in (*reversed(path.parents), path) if place in self.rows)
        return {key: value for row in above for key, value in row.items() if value}


def read_table(path: Path, find: Find) -> VideoTable:
    """Read videos.csv. Raises ConfigError for a missing `video` column, a doubled video, a name that may be any of
    several, or a misspelt column.
    """
    rows: dict[Path, dict[str, str]] = {}
    first: dict[Path, int] = {}
    strangers: list[str] = []
    columns, lines = _read_csv(path, "video")
    unknown = [name for name in columns if name not in COLUMNS and name not in _IGNORED]
    for name in unknown:
        if guess := nearest(name, COLUMNS):
            raise ConfigError(f"{path}: unknown column {name!r}{guess}; known: {', '.join(COLUMNS)}")
    for number, row in lines:
        item = find(row["video"], f"{path}: row {number}")
        if item is None:
            strangers.append(row["video"])
            continue
        if item.path in rows:
            raise ConfigError(
                f"{path}: row {number}: video {row['video']!r} stands there twice, in row {first[item.path]} too"
            )
        rows[item.path], first[item.path] = row, number
    return VideoTable(path, rows, unknown, strangers)


def table_beside(roots: Sequence[Path]) -> Path | None:
    """videos.csv in a source folder, or beside it; None where there is none. Raises ConfigError for more than one:
    without it, what it says of cases, splits and privacy would be lost.
    """
    places = {folder / "videos.csv" for root in roots for folder in (root, root.parent) if folder.is_dir()}
    found = sorted(place for place in places if place.is_file())
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(map(str, found))}: both could be meant; name one with --metadata")
    return found[0] if found else None


def metadata_of(item: FoundSource, table: VideoTable, case_regex: str | None, source: str | None) -> Metadata:
    """The metadata of one video or still: its row, else the case by `case_regex` on its name (on its path, of a still),
    else a case of its own.
    """
    row = table.row(item)
    where = f"{table.path}: video {item.name}"
    case, part = _case(item, case_regex)
    return Metadata(
        case_id=row.get("case_id") or case,
        part=_integer(row.get("part"), part, f"{where}: part"),
        source=source or row.get("source") or item.default_source,
        hospital=row.get("hospital", ""),
        procedure=row.get("procedure", ""),
        robotic=_boolean(row.get("robotic", ""), f"{where}: robotic"),
        splits=_tags(row.get("split", ""), where),
        private=bool(_boolean(row.get("private", ""), f"{where}: private")),
    )


def frame_spec(item: FoundSource, table: VideoTable, given: Mapping[str, Any]) -> FrameSpec:
    """How the frame names of a folder give times: from its row of videos.csv, else from the command line.

    Raises ConfigError naming what is missing; none of the three is guessed.
    """
    row = table.of(item.path)
    values = {key: row.get(key) or given.get(key) for key in ("frames", "frames_fps", "first_number")}
    missing = [f"--{key.replace('_', '-')}" for key, value in values.items() if value in (None, "")]
    if missing:
        raise ConfigError(
            f"{item.shown} is a folder of frames: say {' and '.join(missing)} (or the columns {', '.join(values)} in "
            "videos.csv), such as --frames '{number:06d}.jpg' --frames-fps 25 --first-number 0; pictures that are no "
            "frames of one video are ingested one by one with --stills"
        )
    where = f"{item.shown}: "
    fps = _number(values["frames_fps"], where + "frames_fps")
    if fps <= 0:
        raise ConfigError(f"{where}frames_fps must be above 0")
    return FrameSpec(str(values["frames"]), fps, _integer(values["first_number"], 0, where + "first_number"))


def read_exclude(path: Path, videos: Lookup) -> dict[str, tuple[tuple[float, float], ...]]:
    """exclude.csv (video, start, end in seconds) -> [start, end) intervals by video; an empty end is the
    video's.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for number, row in _read_csv(path, "video", "start", "end")[1]:
        where = f"{path}: row {number}"
        item = videos.find(row["video"], where)
        start = _number(row["start"] or 0, where)
        end = _number(row["end"], where) if row["end"] else math.inf
        if not 0 <= start < end:
            raise ConfigError(f"{where}: start {row['start']!r} is not before end {row['end']!r}")
        if item is None:
            raise ConfigError(f"{where}: no video {row['video']!r}{nearest(row['video'], videos.names)}")
        found.setdefault(item.name, []).append((start, end))
    return {name: tuple(sorted(intervals)) for name, intervals in found.items()}


def read_masks(path: Path, sources: Sequence[str]) -> dict[str, tuple[tuple[int, int, int, int], ...]]:
    """Boxes (left, top, width, height in source pixels) to black out, by source.

    YAML `source: [[left, top, width, height], ...]`, or CSV with the columns source, left, top, width,
    height.
    """
    found: dict[str, list[Sequence[Any]]] = {}
    if path.suffix.lower() == ".csv":
        for _, row in _read_csv(path, "source", "left", "top", "width", "height")[1]:
            found.setdefault(row["source"], []).append([row[k] for k in ("left", "top", "width", "height")])
    else:
        try:
            tree = config.parse_yaml(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        if not isinstance(tree, dict) or not all(isinstance(boxes, list) for boxes in tree.values()):
            raise ConfigError(f"{path}: expected `source: [[left, top, width, height], ...]`")
        found = {str(key): boxes for key, boxes in tree.items()}
    for source in found:
        if source not in sources:
            raise ConfigError(f"{path}: no video is of source {source!r}{nearest(source, sources)}")
    return {source: tuple(_box(box, path) for box in boxes) for source, boxes in found.items()}


def matches(name: str, regex: str) -> re.Match[str] | None:
    """The match of --case-regex on the whole name. Raises ConfigError for what is no regular expression."""
    try:
        return re.fullmatch(regex, name)
    except re.error as error:
        raise ConfigError(f"--case-regex {regex!r}: {error}") from None


def _case(item: FoundSource, regex: str | None) -> tuple[str, int]:
    match = None if regex is None else matches(item.cased_by, regex)
    if match is None:
        return item.name, 1
    groups = match.groupdict()
    if "case" not in groups:
        raise ConfigError(f"--case-regex {regex!r} needs a group (?P<case>...), and may have one (?P<part>...)")
    return groups["case"] or item.name, _integer(groups.get("part"), 1, f"--case-regex on {item.cased_by}")


def _read_csv(path: Path, *required: str) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a table, and its rows with their numbers; '' is an empty cell."""
    table = tables.read_table(path, failure=ConfigError)
    table.need(*required)
    cells = zip(*(table.texts(name) for name in table.names), strict=True)
    lines = [
        (int(row), dict(zip(table.names, values, strict=True))) for row, values in zip(table.rows, cells, strict=True)
    ]
    return table.names, lines


def _tags(text: str, where: str) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in text.split(";") if tag.strip())
    try:
        for tag in tags:
            check_tag(tag)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return tags


def _boolean(text: str, where: str) -> bool | None:
    if not text:
        return None
    if text.lower() not in _TRUE | _FALSE:
        raise ConfigError(f"{where} = {text!r}: expected true, false or nothing")
    return text.lower() in _TRUE


def _integer(value: object, default: int, where: str) -> int:
    if value in (None, ""):
        return default
    if not re.fullmatch(r"[+-]?[0-9]+", str(value)):
        raise ConfigError(f"{where} = {value!r}: expected a whole number")
    return int(str(value))


def _number(value: object, where: str) -> float:
    if not tables.is_number(str(value)):
        raise ConfigError(f"{where}: {value!r} is not a number")
    return float(str(value))


def _box(values: Any, path: Path) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(str(value)) for value in values)
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: a mask is [left, top, width, height] in pixels, not {values!r}") from None
    if min(left, top) < 0 or min(width, height) < 1:
        raise ConfigError(f"{path}: mask {values!r} is empty or begins outside of the picture")
    return left, top, width, height
