"""The catalog of a shards folder: random access to every frame by (shard, offset, size).

ROOT/catalog/frames.arrow      Arrow IPC file, one uncompressed record batch, memory-mapped as it is
ROOT/catalog/quality.parquet   what curation reads, row-aligned with the frames
ROOT/catalog/videos.parquet    one row per video; a video is one contiguous range of frame rows; an isolated picture
                               is a video of one frame whose fps is 0
ROOT/catalog/shards.parquet    path relative to ROOT, bytes, sha256; the row number is the `shard` column
ROOT/catalog/rejected.parquet  path, reason, detail of all that could not be ingested
ROOT/catalog/catalog.json      format version, fingerprint, counts; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trocar.data.remote.store import RemoteStore, is_remote
from trocar.errors import ConfigError, TrocarError, nearest

if TYPE_CHECKING:
    from PIL import Image

    from trocar.data.loading.catalog_samples import CatalogSamples
    from trocar.data.selection.composition import Composition
    from trocar.data.selection.selection import Selection

FORMAT_VERSION = 2
FOLDER = "catalog"

FRAME_SCHEMA = pa.schema(
    [
        ("video", pa.int32()),
        ("time_s", pa.float32()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("crc32", pa.uint32()),
        ("width", pa.uint16()),
        ("height", pa.uint16()),
    ]
)
QUALITY_SCHEMA = pa.schema(
    [
        ("black", pa.bool_()),
        ("uniform", pa.bool_()),
        ("blurred", pa.bool_()),
        ("out_of_body", pa.float32()),
        ("near_duplicate", pa.bool_()),
        ("luma_mean", pa.float32()),
        ("luma_std", pa.float32()),
        ("sharpness", pa.float32()),
        ("dhash_distance", pa.uint16()),
        ("dhash", pa.binary(32)),
    ]
)
VIDEO_SCHEMA = pa.schema(
    [
        ("video", pa.int32()),
        ("name", pa.string()),
        ("case_id", pa.string()),
        ("part", pa.int32()),
        ("source", pa.string()),
        ("hospital", pa.string()),
        ("procedure", pa.string()),
        ("robotic", pa.bool_()),
        ("splits", pa.list_(pa.string())),
        ("private", pa.bool_()),
        ("fps", pa.float64()),
        ("duration_s", pa.float64()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
        ("content_hash", pa.string()),
        ("first_shard", pa.int32()),
        ("last_shard", pa.int32()),
        ("content", pa.string()),
        ("crop", pa.list_(pa.int32())),
        ("source_size", pa.list_(pa.int32())),
        ("masks", pa.list_(pa.int32())),
        ("text", pa.list_(pa.int32())),
        ("damaged", pa.int32()),
        ("notes", pa.list_(pa.string())),
    ]
)
SHARD_SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
REJECTED_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

OUT_OF_BODY_THRESHOLD = 0.5
"""A frame with an `out_of_body` score of at least this is left out by `curate: default`."""

REVIEW_THRESHOLD = 0.05
"""A frame with an `out_of_body` score of at least this, and below OUT_OF_BODY_THRESHOLD, is uncertain: a person has to
look before it is shown to others. About one in a hundred frames in the body reaches it (`benchmarks/curation.py`).
"""

DEFAULT_CURATION: Mapping[str, bool | float] = MappingProxyType(
    {
        "black": False,
        "uniform": False,
        "blurred": False,
        "out_of_body": OUT_OF_BODY_THRESHOLD,
        "near_duplicate": False,
    }
)
"""`curate: default`: a bool column must equal the value, a score must be below it."""


STRICT_CURATION: Mapping[str, bool | float] = MappingProxyType({**DEFAULT_CURATION, "out_of_body": REVIEW_THRESHOLD})
"""`curate: strict`: uncertain frames stay out as well."""


def fails(values: Any, limit: bool | float) -> Any:
    """Whether a verdict column (or one value of it) keeps its frames out, by the rule of `DEFAULT_CURATION`."""
    return values != limit if isinstance(limit, bool) else values >= limit


class Catalog:
    """An opened catalog. Pickles as its path, so handing it to worker processes costs nothing.

    Attributes:
        root: the shards folder that contains `catalog/`; of remote shards the copy of it on this machine.
        store: where the shards are, for remote ones; None for those in `root`.
        fingerprint: sha256 (hex) over the sorted (video name, content hash) pairs.
        videos: one row per video, `VIDEO_SCHEMA`; the row number is the video id.
        frames: read-only zero-copy numpy views of the memory-mapped columns of `FRAME_SCHEMA`, each
            [len(self)]. `offset` and `size` (bytes) locate the JPEG itself in the shard, `crc32` is
            zlib.crc32 of these bytes.
        shard_names: path of each shard below `root` or `store`, with slashes; the index is the `shard` column.
        shard_bytes: size of each.
    """

    def __init__(
        self, root: Path, fingerprint: str, videos: pa.Table, shards: pa.Table, store: RemoteStore | None
    ) -> None:
        self.root = root
        self.store = store
        self.fingerprint = fingerprint
        self.videos = videos
        self.shard_names: list[str] = shards["path"].to_pylist()
        self.shard_bytes: list[int] = shards["bytes"].to_pylist()
        self.shard_paths = [inside(root, name) for name in self.shard_names]
        self.frames: Mapping[str, np.ndarray[Any, Any]] = _map_frames(root / FOLDER / "frames.arrow")

    @classmethod
    def open(cls, root: str | Path) -> Catalog:
        """Open ROOT/catalog; `root` may be the address of a shards folder in a store (`s3://`, `https://`).

        Raises ConfigError where there is no catalog or one of another format version, TrocarError for a
        catalog whose files don't belong together, that names files outside `root`, or whose videos are not its frames.
        """
        if is_remote(root):
            from trocar.data.remote.mirror import mirrored

            store = RemoteStore(str(root))
            return cls._opened(mirrored(store), store)
        return cls._opened(Path(root).absolute(), None)

    @classmethod
    def _opened(cls, root: Path, store: RemoteStore | None) -> Catalog:
        header = read_header(root)
        videos = _read(root / FOLDER / "videos.parquet", VIDEO_SCHEMA)
        pairs = zip(videos["name"].to_pylist(), videos["content_hash"].to_pylist(), strict=True)
        if catalog_fingerprint(pairs) != header["fingerprint"]:
            raise TrocarError(f"{root / FOLDER}: its files are from different ingests; run `trocar ingest` again")
        shards = _read(root / FOLDER / "shards.parquet", SHARD_SCHEMA)
        catalog = cls(root, header["fingerprint"], videos, shards, store)
        catalog._check_ranges()
        return catalog

    @property
    def location(self) -> str:
        """By which `open` finds it: an absolute path, or an address."""
        return str(self.root) if self.store is None else self.store.address

    def _check_ranges(self) -> None:
        """Raises TrocarError where the videos are not, one after another, the rows of the frames."""
        first, rows = (to_numpy(self.videos[name]) for name in ("first_row", "rows"))
        ends = np.concatenate([[0], np.cumsum(rows)])
        if (rows < 0).any() or (first != ends[:-1]).any() or ends[-1] != len(self):
            raise TrocarError(
                f"{self.root / FOLDER}: the videos don't cover the {len(self)} frames; run `trocar ingest` again"
            )

    def __len__(self) -> int:
        return len(self.frames["video"])

    def __getitem__(self, row: int) -> Image.Image:
        """The picture of a catalog row, in RGB; a negative row counts from the end.

        Raises IndexError for a row that is not there, TrocarError for a frame that cannot be read.
        """
        from PIL import Image

        from trocar.data.loading.reader import BadContentError, Reader  # these two import torch
        from trocar.data.loading.steps import decode_jpeg
        from trocar.data.media.delivered_files import RejectError

        number = row + len(self) if row < 0 else row
        if not 0 <= number < len(self):
            raise IndexError(f"row {row} of a catalog of {len(self)} frames")
        try:
            return Image.fromarray(decode_jpeg(Reader(self).read(number)).permute(1, 2, 0).numpy())
        except (BadContentError, RejectError) as error:
            raise TrocarError(f"{self.location}: row {number}: {error}; run `trocar inspect --verify`") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (Catalog._opened, (self.root, self.store))

    def quality(self, columns: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """Read only these columns of `QUALITY_SCHEMA`, each [len(self)]; `dhash` comes as uint8[len(self),
        32].

        Raises ConfigError for a column that does not exist.
        """
        for name in columns:
            if name not in QUALITY_SCHEMA.names:
                allowed = QUALITY_SCHEMA.names
                raise ConfigError(f"no quality column {name!r}{nearest(name, allowed)}; there are {', '.join(allowed)}")
        table = _read(self.root / FOLDER / "quality.parquet", QUALITY_SCHEMA, list(columns))
        return {name: to_numpy(table[name]) for name in columns}

    @cached_property
    def is_still(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """bool[videos]: which are isolated pictures, of no rate, no duration and no neighbours in time (`fps` is 0)."""
        still: np.ndarray[Any, np.dtype[np.bool_]] = to_numpy(self.videos["fps"]) == 0
        return still

    def place(self, row: int) -> dict[str, Any]:
        """Where a row is, in words that outlive the catalog's growth: {"video": name, "row": row within it}."""
        video = int(self.frames["video"][row])
        return {"video": self.videos["name"][video].as_py(), "row": row - int(self.videos["first_row"][video].as_py())}

    def row_at(self, video: str, row: int) -> int | None:
        """The catalog row of `place`, or None when there is no such video or row any more."""
        names = self.videos["name"].to_pylist()
        if video not in names:
            return None
        index = names.index(video)
        known = 0 <= row < int(self.videos["rows"][index].as_py())
        return int(self.videos["first_row"][index].as_py()) + row if known else None

    def webdataset(
        self,
        selection: Selection | Composition | None = None,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> CatalogSamples:
        """The frames of a selection or composition (None: all) as WebDataset samples, for pipelines of others.

        Each is `{"__key__", "__url__", "jpg", "json"}` with bytes, as before any decoding. In catalog order, or with
        `seed` in the order of a plan of one epoch; `rank` of `world` takes its share. Raises ConfigError for a
        composition that cannot be resolved.
        """
        from trocar.data.loading.catalog_samples import CatalogSamples, of_composition  # torch

        return CatalogSamples(self, of_composition(self, selection), seed=seed, rank=rank, world=world)

    def rejected(self) -> pa.Table:
        """What could not be ingested: path, reason, detail."""
        return _read(self.root / FOLDER / "rejected.parquet", REJECTED_SCHEMA)


def read_header(root: Path) -> dict[str, Any]:
    """catalog.json of a shards folder, checked: format version, and that the other files have the sizes it
    names.
    """
    folder = root / FOLDER
    try:
        header = json.loads((folder / "catalog.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        begun = (root / "videos").is_dir() and (root / "shards").is_dir()  # many folders of videos are called so
        todo = "its ingest has not finished; run the same `trocar ingest` command again, it continues"
        never = "make one with `trocar ingest SRC --out " + str(root) + "`"
        raise ConfigError(f"{root}: no catalog here; {todo if begun else never}") from None
    except (ValueError, OSError) as error:
        raise TrocarError(f"{folder / 'catalog.json'}: cannot be read ({error}); run `trocar ingest` again") from None
    if not isinstance(header, dict) or header.get("version") != FORMAT_VERSION:
        found = header.get("version") if isinstance(header, dict) else None
        raise ConfigError(
            f"{folder}: catalog format {found}, this Trocar reads format {FORMAT_VERSION}; "
            "run `trocar ingest` again with this version, or install the version that wrote it"
        )
    for name, size in header["files"].items():
        path = inside(folder, name)
        if not path.is_file() or path.stat().st_size != size:
            raise TrocarError(f"{path}: missing or not of {size} bytes; run `trocar ingest` again")
    return header


def catalog_fingerprint(pairs: Iterable[tuple[str, str]]) -> str:
    """sha256 (hex) over the sorted (video name, content hash) pairs."""
    digest = hashlib.sha256()
    for name, content in sorted(pairs):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def inside(root: Path, relative: str) -> Path:
    """`root / relative`. Raises TrocarError for a path that leaves `root`."""
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise TrocarError(f"{root}: the catalog names {relative!r}, which is outside of it; refused")
    return root / pure


def _map_frames(path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = reader.num_record_batches
    except (OSError, pa.ArrowInvalid) as error:
        raise TrocarError(f"{path}: not an Arrow file ({error}); run `trocar ingest` again") from None
    if batches != 1 or not reader.schema.equals(FRAME_SCHEMA):
        raise TrocarError(f"{path}: not the frame table of format {FORMAT_VERSION}; run `trocar ingest` again")
    batch = reader.get_batch(0)
    return MappingProxyType({field.name: view_of(batch.column(field.name)) for field in FRAME_SCHEMA})


def view_of(column: pa.Array) -> np.ndarray[Any, Any]:
    """A column of numbers, bools or fixed-size bytes without nulls as an array over the same memory (not for bools)."""
    # Not `column.to_numpy()`: that imports pandas, which costs every loader worker half a second and 30 MiB.
    kind, start, count = column.type, column.offset, len(column)
    data = column.buffers()[1] or b""
    if pa.types.is_boolean(kind):
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=start + count, bitorder="little")
        return bits[start:].astype(bool)
    if pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        return np.frombuffer(data, np.uint8, count=count * width, offset=start * width).reshape(count, width)
    letter = "f" if pa.types.is_floating(kind) else "i" if pa.types.is_signed_integer(kind) else "u"
    dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
    return np.frombuffer(data, dtype, count=count, offset=start * dtype.itemsize)


def _read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    # Not `pq.read_table`: that imports the data set machinery and pandas.
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=columns, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrocarError(f"{path}: not a Parquet file ({error}); run `trocar ingest` again") from None
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if set(table.column_names) != set(wanted.names):
        raise TrocarError(f"{path}: not the columns of format {FORMAT_VERSION}; run `trocar ingest` again")
    return table.select(wanted.names).cast(wanted)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column of numbers, bools or fixed-size bytes without nulls: [n], or uint8[n, width] for bytes.

    Raises TrocarError for a column with nulls.
    """
    if column.null_count:
        raise TrocarError(f"the catalog has {column.null_count} empty {column.type} values; run `trocar ingest` again")
    chunks = [view_of(chunk) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else view_of(pa.array([], column.type))
