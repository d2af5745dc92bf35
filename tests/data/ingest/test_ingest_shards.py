"""Shards are WebDataset tars that other readers read, with DALI's own index format beside them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from data_factory import random_jpeg
from webdataset.writer import TarWriter

from trocar.data.ingest.shard_writer import ShardWriter


def write(folder: Path, frames: int = 7, shard_bytes: int = 1 << 30) -> tuple[ShardWriter, list[bytes]]:
    rng = np.random.default_rng(0)
    jpegs = [random_jpeg(rng) for _ in range(frames)]
    with ShardWriter(folder, "video01_2", shard_bytes) as writer:
        for k, jpeg in enumerate(jpegs):
            writer.add(k / 2, jpeg, 64, 48)
    return writer, jpegs


def test_webdataset_reads_keys_images_and_times(tmp_path: Path) -> None:
    _, jpegs = write(tmp_path)
    samples = list(wds.WebDataset(str(tmp_path / "video01_2-0000.tar"), shardshuffle=False, empty_check=False))
    assert [sample["jpg"] for sample in samples] == jpegs
    assert [sample["__key__"] for sample in samples] == [f"video01_2-{k:07d}" for k in range(7)]
    assert json.loads(samples[3]["json"]) == {"time_s": 1.5, "video": "video01_2"}


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    for suffix in ("tar", "idx"):
        first, second = ((tmp_path / name / f"video01_2-0000.{suffix}").read_bytes() for name in "ab")
        assert first == second
    with tarfile.open(tmp_path / "a" / "video01_2-0000.tar") as tar:
        assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in tar} == {
            (0, 0o444, 0, 0, "trocar", "trocar")
        }


def test_checksums_are_of_the_whole_tar(tmp_path: Path) -> None:
    writer, _ = write(tmp_path, shard_bytes=5000)
    assert len(writer.shards()) > 1
    for shard in writer.shards():
        data = (tmp_path / Path(shard.path).name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_the_index_is_what_wds2idx_writes(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="NVIDIA DALI is not installed")
    if shutil.which("tar") is None:
        pytest.skip("wds2idx needs tar")
    write(tmp_path)
    with wds2idx.IndexCreator(str(tmp_path / "video01_2-0000.tar"), str(tmp_path / "theirs.idx"), False) as creator:
        creator.create_index()
    assert (tmp_path / "video01_2-0000.idx").read_text() == (tmp_path / "theirs.idx").read_text()


def test_dali_reads_the_shards_by_the_index(tmp_path: Path) -> None:
    dali = pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    _, jpegs = write(tmp_path, shard_bytes=5000)
    tars = sorted(tmp_path.glob("*.tar"))

    @dali.pipeline_def(batch_size=len(jpegs), num_threads=1, device_id=None)
    def pipeline() -> object:
        return dali.fn.readers.webdataset(
            paths=[str(tar) for tar in tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
            ext=["jpg"],
            missing_component_behavior="error",
        )

    built = pipeline()
    built.build()
    (images,) = built.run()
    assert [bytes(np.asarray(images[i])) for i in range(len(jpegs))] == jpegs


def test_the_bytes_are_those_of_webdataset_s_own_writer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    jpegs = [random_jpeg(rng) for _ in range(5)]
    with ShardWriter(tmp_path, "v") as writer:
        for k, jpeg in enumerate(jpegs):
            writer.add(k / 3, jpeg, 64, 48)
    reference = tmp_path / "reference.tar"
    with reference.open("wb") as file:
        tar = TarWriter(file, user="trocar", group="trocar", mode=0o444, mtime=0, encoder=False)
        for k, jpeg in enumerate(jpegs):
            meta = json.dumps({"video": "v", "time_s": round(k / 3, 6)}, sort_keys=True).encode()
            tar.write({"__key__": f"v-{k:07d}", "jpg": jpeg, "json": meta})
        tar.close()
    assert (tmp_path / "v-0000.tar").read_bytes() == reference.read_bytes()
