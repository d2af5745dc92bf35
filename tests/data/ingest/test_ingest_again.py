"""A second ingest of a folder: what is done stays done, and what was left half-way is done again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_factory import make_catalog
from ingest_clips import KEEP, ingest, tree

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest import framing, video
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.output_folder import only_one
from trocar.data.ingest.run import run_ingest
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.errors import ConfigError, TrocarError


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(job: video.Job) -> video.JobOutcome:
            raise AssertionError(f"{job.name} is decoded again")

        monkeypatch.setattr(video.Job, "run", refuse)

    return forbid


def test_a_finished_video_is_never_decoded_again(clips: Path, tmp_path: Path, no_decoding: Callable[[], None]) -> None:
    ingest(clips, tmp_path / "out")
    before = tree(tmp_path / "out")
    no_decoding()
    summary, _ = ingest(clips, tmp_path / "out")
    assert (summary.ingested, summary.finished_before) == (0, 3)
    assert tree(tmp_path / "out") == before


def test_a_record_of_another_ingest_version_is_done_again(clips: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "INGEST_VERSION", framing.INGEST_VERSION - 1)
        ingest(clips, tmp_path / "out")
    summary, _ = ingest(clips, tmp_path / "out")
    assert (summary.ingested, summary.finished_before) == (3, 0)


@pytest.mark.parametrize(("field", "written"), [("source_size", [96, 32]), ("text", []), ("members", [])])
def test_a_record_of_before_a_field_existed_is_done_again(
    clips: Path, tmp_path: Path, field: str, written: list[int]
) -> None:
    ingest(clips, tmp_path / "out")
    path = tmp_path / "out" / "videos" / "case2.json"
    record = json.loads(path.read_text())
    assert record.pop(field) == written
    path.write_text(json.dumps(record))
    summary, _ = ingest(clips, tmp_path / "out")
    assert (summary.ingested, summary.finished_before) == (1, 2)
    assert json.loads(path.read_text())[field] == written


def test_new_metadata_reaches_the_catalog_without_decoding(
    clips: Path, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    ingest(clips, tmp_path / "out")
    fingerprint = Catalog.open(tmp_path / "out").fingerprint
    (tmp_path / "m.csv").write_text("video,hospital\ncase2,south\n")
    no_decoding()
    ingest(clips, tmp_path / "out", metadata=tmp_path / "m.csv")
    catalog = Catalog.open(tmp_path / "out")
    assert catalog.videos["hospital"].to_pylist() == ["", "", "south"]
    assert catalog.fingerprint == fingerprint


def test_other_settings_replace_the_frames(clips: Path, tmp_path: Path) -> None:
    small_shards = KEEP.model_copy(update={"shard_bytes": 4096})
    ingest(clips, tmp_path / "out", settings=small_shards)
    many = len(list((tmp_path / "out" / "shards").glob("*.tar")))
    ingest(clips, tmp_path / "out", settings=KEEP.model_copy(update={"fps": 0.5}))
    catalog = Catalog.open(tmp_path / "out")
    assert catalog.frames["time_s"].tolist() == [0, 2, 0, 2, 0]
    assert many > 3
    assert sorted(p.name for p in (tmp_path / "out" / "shards").glob("*.tar")) == [
        f"{name}-0000.tar" for name in ("case1_1", "case1_2", "case2")
    ]


def test_a_second_source_joins_the_catalog(clips: Path, tmp_path: Path) -> None:
    ingest(clips, tmp_path / "out", source="b")
    summary, _ = ingest(clips, tmp_path / "out", source="a", prefix="again_")
    videos = Catalog.open(tmp_path / "out").videos
    assert videos["source"].to_pylist() == ["a"] * 3 + ["b"] * 3
    assert summary.elsewhere == 3
    with pytest.raises(ConfigError, match="would both be video 'case1_1'"):
        run_ingest(IngestOptions(sources=(clips, clips), out=tmp_path / "out"), lambda line: None, lambda *_: None)


def test_a_foreign_catalog_is_not_overwritten(clips: Path, tmp_path: Path) -> None:
    make_catalog(tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ConfigError, match="no ingest left here"):
        ingest(clips, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_an_unreadable_record_is_an_error_not_a_missing_video(clips: Path, tmp_path: Path) -> None:
    ingest(clips, tmp_path / "out")
    (tmp_path / "out" / "videos" / "case2.json").write_text("{}")
    with pytest.raises(TrocarError, match=r"case2.json: not a record of this version"):
        ingest(clips / "case1_1.mp4", tmp_path / "out")
    assert ingest(clips, tmp_path / "out")[0].ingested == 1


def test_two_ingests_of_one_folder_are_refused(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with only_one(out), pytest.raises(TrocarError, match=rf"process {os.getpid()} on .* is writing here"):
        ingest(clips, out)
    ingest(clips, out)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ShardWriter.add

    def full(self: ShardWriter, time_s: float, *rest: Any) -> None:
        if self.video == "case1_2" and time_s == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, time_s, *rest)

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(TrocarError, match=r"no space left .* run the same command"):
        ingest(clips, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "shards").iterdir()) == ["case1_1-0000.idx", "case1_1-0000.tar"]
    assert not list((tmp_path / "out" / "tmp").iterdir())
    monkeypatch.undo()
    ingest(clips, tmp_path / "out")
    ingest(clips, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_crash_between_shards_and_record_leaves_a_video_that_is_done_again(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(video.record, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        ingest(clips, tmp_path / "out", settings=KEEP.model_copy(update={"shard_bytes": 4096}))
    assert len(list((tmp_path / "out" / "shards").glob("*.tar"))) > 1
    monkeypatch.undo()
    assert ingest(clips, tmp_path / "out")[0].ingested == 3
    ingest(clips, tmp_path / "undisturbed")
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def test_a_record_that_lost_its_shard_is_done_again(clips: Path, tmp_path: Path) -> None:
    ingest(clips, tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "shards" / "case2-0000.tar").unlink()
    summary, _ = ingest(clips, tmp_path / "out")
    assert summary.ingested == 1
    assert tree(tmp_path / "out") == before
