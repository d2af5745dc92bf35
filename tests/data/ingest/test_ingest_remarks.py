"""What is to be known of a video beside its frames: damage that was accepted, and how it was read."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ingest_clips import (
    KEEP,
    WOVEN,
    comb,
    constant,
    ingest,
    make_clip,
    number_in,
    set_display_matrix,
    stored,
    woven,
)

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest import framing, record

LOSSLESS = KEEP.model_copy(update={"jpeg_quality": 100})


def damaged_clip(path: Path) -> Path:
    make_clip(path, constant(25, 250), scale=2)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 600] = random.Random(1).randbytes(600)
    path.write_bytes(data)
    return path


def test_accepted_damage_stands_in_record_catalog_summary_and_inspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    damaged_clip(tmp_path / "in" / "hit.mp4")
    make_clip(tmp_path / "in" / "sound.mp4", constant(25, 50))
    rejected, _ = ingest(tmp_path / "in", tmp_path / "out")
    count = int(rejected.rejected[0].detail.split()[0])
    accepting = KEEP.model_copy(update={"max_damaged": count})
    summary, _ = ingest(tmp_path / "in", tmp_path / "out", settings=accepting)
    assert summary.damaged == [count]
    again, _ = ingest(tmp_path / "in", tmp_path / "out", settings=accepting)
    assert (again.finished_before, again.damaged) == (2, [count])
    videos = Catalog.open(tmp_path / "out").videos
    assert dict(zip(videos["name"].to_pylist(), videos["damaged"].to_pylist(), strict=True)) == {
        "hit": count,
        "sound": 0,
    }
    assert main(["inspect", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out.partition("damaged, accepted")[2]
    assert table.splitlines()[1].split() == ["hit", str(count)]
    assert "sound" not in table


def test_how_a_video_was_read_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    b_frames = {"x264-params": "bframes=3:b-adapt=0:scenecut=0", "crf": "12"}
    make_clip(tmp_path / "in" / "a.avi", constant(25, 60), tick=Fraction(1, 25), options=b_frames)
    make_clip(tmp_path / "in" / "b.mp4", constant(25, 30), options=WOVEN, pictures=woven(30))
    make_clip(tmp_path / "in" / "c.mp4", constant(25, 30), pictures=woven(30), options={"crf": "12"})
    summary, _ = ingest(tmp_path / "in", tmp_path / "out", settings=LOSSLESS)
    counted = "AVI files have no display times: pictures were counted, at 25 frames per second"
    fields = "interlaced frames were deinterlaced (bwdif)"
    assert summary.notes == {counted: 1, fields: 1}
    catalog = Catalog.open(tmp_path / "out")
    assert catalog.videos["notes"].to_pylist() == [[counted], [fields], []]
    assert [number_in(image) for _, image in stored(catalog, "a")] == [0, 25, 50]
    assert max(comb(image) for _, image in stored(catalog, "b")) < 2.5
    assert min(comb(image) for _, image in stored(catalog, "c")) > 5  # not marked: what the file says is kept
    assert main(["inspect", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{fields} 1 b" in printed


@pytest.mark.parametrize("matrix", [(-65536, 0, 0, 65536), (65536, 0, 0, -65536)], ids=["left-right", "top-bottom"])
def test_a_mirrored_recording_is_stored_as_players_show_it(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    (tmp_path / "in").mkdir()
    number = 0b000001_001011
    clip = make_clip(tmp_path / "in" / "a.mp4", constant(25, 5), numbers=[number] * 5)
    set_display_matrix(clip, *matrix)
    ingest(tmp_path / "in", tmp_path / "out")
    ((_, image),) = stored(Catalog.open(tmp_path / "out"), "a")
    mirrored = np.asarray(image)[:, ::-1] if matrix[0] < 0 else np.asarray(image)[::-1]
    assert number_in(mirrored) == number
    assert number_in(image) != number


def test_a_record_of_another_version_of_ingest_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "in.mp4", constant(25, 5))
    monkeypatch.setattr(framing, "INGEST_VERSION", framing.INGEST_VERSION - 1)
    ingest(tmp_path / "in.mp4", tmp_path / "out")
    monkeypatch.undo()
    path = tmp_path / "out" / record.FOLDER / "in.json"
    tree = json.loads(path.read_text())
    del tree["notes"]  # as the version before wrote it
    path.write_text(json.dumps(tree))
    summary, _ = ingest(tmp_path / "in.mp4", tmp_path / "out")
    assert (summary.ingested, summary.finished_before) == (1, 0)
