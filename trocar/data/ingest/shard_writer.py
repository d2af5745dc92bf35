"""WebDataset shards of one video, with the byte positions a catalog needs and a DALI index beside each.

Index format v1.2, as NVIDIA DALI's `wds2idx` writes it: a line `v1.2 <samples>`, then per sample one line
with `<extension> <data offset> <size> <member name>` for each component.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa

from trocar.core.files import fsync_file
from trocar.data.catalog.catalog import FRAME_SCHEMA
from trocar.data.catalog.writer import ContentHash, ShardFile

BLOCK = 512
SHARD_BYTES = 1 << 30
MAX_KEY = 90  # USTAR member names end at 100 characters


class _HashingFile:
    """A write-only file that knows the sha256 of what went through it.

    Once abandoned it takes writes without keeping them: a tar stream flushes what it has left when it is collected.
    """

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = path.open("wb")
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        if self.file.closed:
            return len(data)
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)


class ShardWriter:
    """Writes `{video}-{shard:04d}.tar` and `.idx` into `folder`; a new shard begins at `shard_bytes`.

    A context manager: leaving it closes the files. `shards()` and `frames()` are complete after that.
    """

    def __init__(self, folder: Path, video: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.video = video
        self.shard_bytes = shard_bytes
        self.content = ContentHash()
        self._columns: dict[str, list[Any]] = {name: [] for name in FRAME_SCHEMA.names}
        self._shards: list[ShardFile] = []
        self._index: list[str] = []
        self._file: _HashingFile | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is None:
            self._finish_shard()
        elif self._file is not None:
            with contextlib.suppress(OSError):  # a full disk again: the error on its way out is the one to see
                self._file.file.close()

    def add(self, time_s: float, jpeg: bytes, width: int, height: int, *, video: str | None = None) -> None:
        """Append the frame shown at `time_s` seconds. Frames come in time order.

        `video` is what the frame is of, where that is not the name of the shards: then it is the only one of its.
        """
        if self._tar is not None and self._tar.offset >= self.shard_bytes:
            self._finish_shard()
        tar = self._tar or self._begin_shard()
        key = f"{video}-{0:07d}" if video else f"{self.video}-{len(self._columns['video']):07d}"
        meta = json.dumps({"video": video or self.video, "time_s": round(time_s, 6)}, sort_keys=True).encode()
        offset = tar.offset + BLOCK
        meta_offset = offset + _padded(len(jpeg)) + BLOCK
        _append(tar, f"{key}.jpg", jpeg)
        _append(tar, f"{key}.json", meta)
        if tar.offset != meta_offset + _padded(len(meta)):
            raise AssertionError(f"{key}: the tar writer did not write what the catalog says")
        self._index.append(f"jpg {offset} {len(jpeg)} {key}.jpg json {meta_offset} {len(meta)} {key}.json")
        self.content.add(time_s, jpeg)
        row = (0, time_s, len(self._shards), offset, len(jpeg), zlib.crc32(jpeg), width, height)
        for name, value in zip(FRAME_SCHEMA.names, row, strict=True):
            self._columns[name].append(value)

    def shards(self, prefix: str = "shards/") -> list[ShardFile]:
        """The finished shards, with paths under `prefix`."""
        return [ShardFile(prefix + shard.path, shard.bytes, shard.sha256) for shard in self._shards]

    def frames(self) -> pa.Table:
        """FRAME_SCHEMA rows of this video, `shard` counting from 0."""
        return pa.table(
            {f.name: pa.array(np.asarray(self._columns[f.name], f.type.to_pandas_dtype())) for f in FRAME_SCHEMA},
            schema=FRAME_SCHEMA,
        )

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.video}-{len(self._shards):04d}{suffix}"

    def _begin_shard(self) -> tarfile.TarFile:
        self._file = _HashingFile(self._path(".tar"))
        sink = cast(BinaryIO, self._file)
        self._tar = tarfile.open(fileobj=sink, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - _finish_shard
        return self._tar

    def _finish_shard(self) -> None:
        if self._file is None or self._tar is None:
            return
        self._tar.close()
        self._file.file.close()
        lines = [f"v1.2 {len(self._index)}", *self._index]
        self._path(".idx").write_text("\n".join(lines) + "\n", encoding="utf-8")
        fsync_file(self._path(".tar"))
        fsync_file(self._path(".idx"))
        self._shards.append(ShardFile(self._path(".tar").name, self._file.bytes, self._file.digest.hexdigest()))
        self._file, self._tar, self._index = None, None, []


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _append(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member as webdataset's TarWriter writes it; importing that imports torch, in every worker."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o444, 0
    member.uname = member.gname = "trocar"
    tar.addfile(member, io.BytesIO(data))
