"""The catalog: what is written is what is read, whatever the order, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_factory import make_catalog, random_jpeg, random_quality

from trocar.data.catalog.catalog import (
    FRAME_SCHEMA,
    QUALITY_SCHEMA,
    SHARD_SCHEMA,
    Catalog,
    catalog_fingerprint,
    to_numpy,
)
from trocar.data.catalog.writer import Rejected, VideoEntry, publish, write_catalog
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.errors import ConfigError, TrocarError


def entry(root: Path, name: str, source: str, frames: int = 3, shard_bytes: int = 1 << 30) -> VideoEntry:
    (root / "shards").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(name))
    with ShardWriter(root / "shards", name, shard_bytes) as writer:
        for k in range(frames):
            writer.add(float(k), random_jpeg(rng), 64, 48)
    return VideoEntry(
        name=name,
        case_id=name,
        part=1,
        source=source,
        fps=1.0,
        duration_s=float(frames),
        content_hash=writer.content.hexdigest(),
        shards=writer.shards(),
        frames=writer.frames(),
        quality=random_quality(rng, frames, 0.5),
    )


def test_offset_and_size_locate_the_jpeg_in_the_shard(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, videos=3, frames=5)
    assert len(catalog) == 15
    for row in range(len(catalog)):
        frame = {name: column[row] for name, column in catalog.frames.items()}
        with catalog.shard_paths[frame["shard"]].open("rb") as shard:
            jpeg = os.pread(shard.fileno(), frame["size"], frame["offset"])
        assert jpeg[:2] == b"\xff\xd8"
        assert jpeg[-2:] == b"\xff\xd9"
        assert zlib.crc32(jpeg) == frame["crc32"]


def test_a_video_is_one_contiguous_row_range_in_source_name_time_order(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, videos=5, frames=[2, 3, 4, 1, 2], sources=("b", "a"))
    videos = catalog.videos.to_pylist()
    assert [v["name"] for v in videos] == ["video01", "video03", "video00", "video02", "video04"]
    assert [v["video"] for v in videos] == [0, 1, 2, 3, 4]
    assert [v["first_row"] for v in videos] == [0, 3, 4, 6, 10]
    for v in videos:
        rows = slice(v["first_row"], v["first_row"] + v["rows"])
        assert set(catalog.frames["video"][rows]) == {v["video"]}
        assert catalog.frames["time_s"][rows].tolist() == list(range(v["rows"]))


def test_a_video_of_several_shards_keeps_every_frame(tmp_path: Path) -> None:
    video = entry(tmp_path, "long", "s", frames=9, shard_bytes=5000)
    write_catalog(tmp_path, [video, entry(tmp_path, "a", "s")])
    catalog = Catalog.open(tmp_path)
    assert len(video.shards) > 2
    assert catalog.videos["last_shard"].to_pylist() == [0, len(video.shards)]
    assert [p.name for p in catalog.shard_paths[:2]] == ["a-0000.tar", "long-0000.tar"]
    for number, path in enumerate(catalog.shard_paths):
        rows = np.flatnonzero(catalog.frames["shard"] == number)
        blob = path.read_bytes()
        for row in rows:
            start, size = int(catalog.frames["offset"][row]), int(catalog.frames["size"][row])
            assert zlib.crc32(blob[start : start + size]) == catalog.frames["crc32"][row]


def test_catalog_bytes_do_not_depend_on_the_order_of_completion(tmp_path: Path) -> None:
    videos = [entry(tmp_path, f"v{i}", "ab"[i % 2]) for i in range(6)]
    contents = []
    for seed in range(3):
        random.Random(seed).shuffle(videos)
        write_catalog(tmp_path, videos, [Rejected("y.mp4", "empty", ""), Rejected("x.mp4", "empty", "")])
        contents.append({p.name: p.read_bytes() for p in (tmp_path / "catalog").iterdir()})
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == 6


def test_fingerprint_is_sha256_of_sorted_name_and_content_pairs(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, videos=2)
    pairs = list(zip(catalog.videos["name"].to_pylist(), catalog.videos["content_hash"].to_pylist(), strict=True))
    text = "".join(f"{n}\0{c}\n" for n, c in sorted(pairs))
    assert catalog.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert catalog_fingerprint(reversed(pairs)) == catalog.fingerprint


def test_frame_columns_are_read_only_views_of_the_mapped_file(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path)
    before = pa.total_allocated_bytes()
    again = Catalog.open(tmp_path)
    mapped = sum(column.nbytes for column in again.frames.values())
    assert mapped == len(again) * sum(field.type.bit_width // 8 for field in FRAME_SCHEMA)
    for column in catalog.frames.values():
        assert not column.flags.writeable
        assert not column.flags.owndata
    assert pa.total_allocated_bytes() - before < 64 * 1024


def test_pickle_holds_the_path_only(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, videos=6, frames=30, size=(16, 16))
    blob = pickle.dumps(catalog)
    assert len(blob) < 300 + len(str(tmp_path))
    again = pickle.loads(blob)
    assert again.fingerprint == catalog.fingerprint
    assert np.array_equal(again.frames["crc32"], catalog.frames["crc32"])


def test_quality_columns_are_row_aligned_and_typed(tmp_path: Path) -> None:
    video = entry(tmp_path, "v", "s", frames=7)
    write_catalog(tmp_path, [video])
    quality = Catalog.open(tmp_path).quality(["black", "dhash", "out_of_body"])
    assert quality["black"].tolist() == video.quality["black"].to_pylist()
    assert quality["dhash"].shape == (7, 32)
    assert bytes(quality["dhash"][4]) == video.quality["dhash"][4].as_py()
    with pytest.raises(ConfigError, match=r"'blak' \(did you mean 'black'\?\)"):
        Catalog.open(tmp_path).quality(["blak"])


def test_missing_catalog_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make one with `trocar ingest"):
        Catalog.open(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "shards").mkdir()
    with pytest.raises(ConfigError, match="run the same `trocar ingest` command again"):
        Catalog.open(tmp_path)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    make_catalog(tmp_path)
    path = tmp_path / "catalog" / "catalog.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(ConfigError, match="catalog format 99"):
        Catalog.open(tmp_path)


def test_files_of_different_ingests_are_refused(tmp_path: Path) -> None:
    make_catalog(tmp_path / "one", seed=1)
    make_catalog(tmp_path / "two", seed=2)
    other = (tmp_path / "two" / "catalog" / "videos.parquet").read_bytes()
    (tmp_path / "one" / "catalog" / "videos.parquet").write_bytes(other)
    with pytest.raises(TrocarError, match="run `trocar ingest` again"):
        Catalog.open(tmp_path / "one")


@pytest.mark.parametrize("path", ["../x.tar", "/etc/passwd", "shards/../../x.tar", ""])
def test_a_shard_outside_the_root_is_refused(tmp_path: Path, path: str) -> None:
    catalog = make_catalog(tmp_path)
    tables = {
        "quality.parquet": QUALITY_SCHEMA.empty_table(),
        "videos.parquet": catalog.videos,
        "shards.parquet": pa.Table.from_pylist([{"path": path, "bytes": 1, "sha256": ""}], SHARD_SCHEMA),
        "rejected.parquet": catalog.rejected(),
    }
    publish(tmp_path, FRAME_SCHEMA.empty_table(), tables)
    with pytest.raises(TrocarError, match="outside of it; refused"):
        Catalog.open(tmp_path)


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="two videos are called 'v'"):
        write_catalog(tmp_path, [entry(tmp_path, "v", "a"), entry(tmp_path, "v", "b")])


def test_an_empty_catalog_opens(tmp_path: Path) -> None:
    write_catalog(tmp_path, [], [Rejected("x.mp4", "empty file", "0 bytes")])
    catalog = Catalog.open(tmp_path)
    assert len(catalog) == 0
    assert catalog.quality(["dhash"])["dhash"].shape == (0, 32)
    assert catalog.rejected().to_pylist() == [{"path": "x.mp4", "reason": "empty file", "detail": "0 bytes"}]


def test_columns_with_empty_values_are_refused():
    with pytest.raises(TrocarError, match="1 empty float values"):
        to_numpy(pa.chunked_array([pa.array([1.0, None], pa.float32())]))


def test_columns_are_read_whole_from_chunks_that_begin_anywhere():
    flags = pa.array([True, False, True, True, False, False, True, False, True, True])
    numbers = pa.array(range(10), pa.uint16())
    assert to_numpy(pa.chunked_array([flags.slice(3), flags.slice(0, 2)])).tolist() == [
        *flags[3:].to_pylist(),
        True,
        False,
    ]
    assert to_numpy(pa.chunked_array([numbers.slice(8), numbers.slice(2, 1)])).tolist() == [8, 9, 2]
    assert to_numpy(pa.chunked_array([], pa.bool_())).shape == (0,)
