"""The record of a finished video: `videos/NAME.json`, written last, and `videos/NAME.arrow` with its frame
rows.

A video with a record is finished; without one, nothing of it counts. A rejected video has
`NAME.rejected.json` instead, which only says why: it is tried again by the next ingest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from trocar.core.files import replacing
from trocar.data.catalog.catalog import FRAME_SCHEMA, QUALITY_SCHEMA
from trocar.data.catalog.writer import Rejected, ShardFile, VideoEntry
from trocar.errors import TrocarError

FOLDER = "videos"


@dataclass(frozen=True)
class Metadata:
    """What is known of a video beside its pictures; a change of it needs no decoding."""

    case_id: str
    part: int
    source: str
    hospital: str = ""
    procedure: str = ""
    robotic: bool | None = None
    splits: tuple[str, ...] = ()
    private: bool = False


@dataclass(frozen=True)
class PackMember:
    """A picture of a pack of stills, with what a `VideoRecord` says of a video; the i-th with a `content_hash` is the
    i-th frame row. Those without one were rejected.
    """

    name: str
    metadata: Metadata
    content_hash: str = ""
    content: str = ""
    crop: tuple[int, ...] = ()
    source_size: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()


@dataclass(frozen=True)
class VideoRecord:
    """A finished video, or a finished pack of isolated pictures, its `members`.

    `key` is what the frames follow from: the identity of the source and the settings. Of a pack, what is said of a
    video is said of each member instead; fps and duration_s are 0, for its pictures have no times. `damaged`,
    `text` and `notes` are those of the catalog (`VideoEntry`).
    """

    name: str
    key: str
    metadata: Metadata
    fps: float
    duration_s: float
    content_hash: str
    content: str
    crop: tuple[int, ...]
    source_size: tuple[int, ...]
    masks: tuple[int, ...]
    text: tuple[int, ...]
    damaged: int
    shards: tuple[ShardFile, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    members: tuple[PackMember, ...] = ()

    @property
    def videos(self) -> tuple[str, ...]:
        """What the catalog calls what this is the record of, rejected pictures as well."""
        return tuple(member.name for member in self.members) or (self.name,)


def save(root: Path, record: VideoRecord, frames: pa.Table | None = None, quality: pa.Table | None = None) -> None:
    """Write the frame rows (unless only the metadata changed), then the record."""
    folder = root / FOLDER
    if frames is not None and quality is not None:
        table = pa.table([*frames.columns, *quality.columns], names=[*frames.column_names, *quality.column_names])
        with (
            replacing(folder / f"{record.name}.arrow") as path,
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    _write_json(folder / f"{record.name}.json", asdict(record))
    (folder / f"{record.name}.rejected.json").unlink(missing_ok=True)


def save_rejected(root: Path, name: str, rejected: Rejected) -> None:
    """Note why a video stays out."""
    _write_json(root / FOLDER / f"{name}.rejected.json", asdict(rejected))


def load(root: Path, name: str) -> VideoRecord | None:
    """The record of a video, None where it is not finished."""
    path = root / FOLDER / f"{name}.json"
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        metadata = _metadata(tree.pop("metadata"))
        shards = tuple(ShardFile(**shard) for shard in tree.pop("shards"))
        rejected = tuple(Rejected(**item) for item in tree.pop("rejected"))
        members = tuple(_member(item) for item in tree.pop("members"))
        tree |= {name: tuple(tree[name]) for name in ("crop", "source_size", "masks", "text", "notes")}
        return VideoRecord(metadata=metadata, shards=shards, rejected=rejected, members=members, **tree)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # damaged or of another version: the video is done again


def _metadata(tree: dict[str, Any]) -> Metadata:
    return Metadata(**tree | {"splits": tuple(tree["splits"])})


def _member(tree: dict[str, Any]) -> PackMember:
    lists = {name: tuple(tree[name]) for name in ("crop", "source_size", "masks")}
    return PackMember(**tree | lists | {"metadata": _metadata(tree["metadata"])})


def is_there(root: Path, name: str) -> bool:
    """Whether a video was finished once, also if its record can't be read any more."""
    return (root / FOLDER / f"{name}.json").is_file()


def forget(root: Path, name: str) -> None:
    """Remove a record first, then the shards that belong to it: a crash between leaves no record of
    missing shards.
    """
    (root / FOLDER / f"{name}.json").unlink(missing_ok=True)
    (root / FOLDER / f"{name}.arrow").unlink(missing_ok=True)
    own = re.compile(re.escape(name) + r"-\d{4}\.(tar|idx)")
    for path in (root / "shards").iterdir():
        if own.fullmatch(path.name):
            path.unlink()


def names(root: Path) -> list[str]:
    """Names of all finished videos, sorted."""
    return sorted(path.stem for path in (root / FOLDER).glob("[!.]*.json") if "." not in path.stem)


def entries(root: Path) -> Iterator[VideoEntry]:
    """All finished videos, as the catalog wants them. Raises TrocarError for a record without its frame
    rows.
    """
    for name in names(root):
        record = load(root, name)
        path = root / FOLDER / f"{name}.arrow"
        if record is None:
            raise TrocarError(f"{path.with_suffix('.json')}: not a record of this version; ingest its source again")
        try:
            table = pa.ipc.open_file(pa.OSFile(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise TrocarError(f"{path}: {error}; delete {name}.json beside it and run the same command") from None
        shared = {f.name for f in fields(VideoEntry)} & {f.name for f in fields(VideoRecord)}
        values = {key: getattr(record, key) for key in shared}
        frames, quality = table.select(FRAME_SCHEMA.names), table.select(QUALITY_SCHEMA.names)
        if not record.members:
            yield VideoEntry(**vars(record.metadata), **values, frames=frames, quality=quality)
        for row, member in enumerate(member for member in record.members if member.content_hash):
            own = {key: value for key, value in vars(member).items() if key != "metadata"}
            rows = {"frames": frames.slice(row, 1), "quality": quality.slice(row, 1)}
            yield VideoEntry(**vars(member.metadata), **values | own, **rows)


def load_rejected(path: Path) -> Rejected:
    """Why a video stays out, from its `NAME.rejected.json`. Raises TrocarError for a damaged one."""
    try:
        return Rejected(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise TrocarError(f"{path}: damaged ({error}); delete it and ingest its source again") from None


def rejection_of(root: Path, name: str) -> Rejected | None:
    """Why a video stayed out when it was last tried, if it did."""
    path = root / FOLDER / f"{name}.rejected.json"
    return load_rejected(path) if path.is_file() else None


def rejections(root: Path) -> list[Rejected]:
    """All rejected videos and frames, by path."""
    found: list[Rejected] = []
    for path in sorted((root / FOLDER).glob("[!.]*.rejected.json")):
        found.append(load_rejected(path))
    for name in names(root):
        record = load(root, name)
        found.extend(record.rejected if record is not None else ())
    return sorted(found, key=lambda item: item.path)


def _write_json(path: Path, tree: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def reason_counts(items: Sequence[Rejected]) -> dict[str, int]:
    """How many rejections there are for each reason, the most frequent first."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.reason] = counts.get(item.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
