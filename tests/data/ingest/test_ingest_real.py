"""Real laparoscopic clips and frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ingest_clips import stored

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import IngestSettings, is_canonical
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.quality import dhash, hamming
from trocar.data.ingest.run import run_ingest

pytestmark = pytest.mark.data


def test_clips_of_32_s_give_32_frames_without_their_black_sides(shared_data: Path, tmp_path: Path) -> None:
    clips = shared_data / "cholec80_clips" / "clips"
    chosen = tuple(clips / f"{name}.mp4" for name in ("VID26_0692", "VID26_0693", "VID47_1131"))
    run_ingest(IngestOptions(sources=chosen, out=tmp_path), lambda line: None, lambda *_: None)
    catalog = Catalog.open(tmp_path)
    videos = catalog.videos.to_pylist()
    assert [row["rows"] for row in videos] == [32, 32, 32]
    assert [row["duration_s"] for row in videos] == [32.0, 32.0, 32.0]
    assert set(catalog.frames["height"]) == {256}
    assert all(row["content"] == "circle" and row["crop"][0] > 50 for row in videos)
    assert catalog.quality(["black"])["black"].sum() == 0
    # 26_0692 and 26_0693 are windows of one operation, one second apart.
    first, second = (dict(stored(catalog, name)) for name in ("VID26_0692", "VID26_0693"))
    apart = [hamming(dhash(first[t + 1.0]), dhash(second[t])) for t in range(31)]
    unshifted = [hamming(dhash(first[t]), dhash(second[t])) for t in range(31)]
    assert np.median(apart) < 8 < np.median(unshifted)


def test_canonical_frames_of_the_right_size_are_packed_as_they_are(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "cholect50_val" / "videos" / "VID68"
    files = sorted(folder.glob("*.jpg"))
    assert all(is_canonical(path.read_bytes()) for path in files)
    options = IngestOptions(
        sources=(folder,),
        out=tmp_path,
        settings=IngestSettings(short_side=None, crop="none"),
        frames="{number:06d}.jpg",
        frames_fps=1.0,
        first_number=0,
    )
    run_ingest(options, lambda line: None, lambda *_: None)
    catalog = Catalog.open(tmp_path)
    assert catalog.frames["time_s"].tolist() == [int(path.stem) for path in files]
    frames = catalog.frames
    for row, path in enumerate(files):
        blob = catalog.shard_paths[frames["shard"][row]].read_bytes()
        assert blob[frames["offset"][row] : frames["offset"][row] + frames["size"][row]] == path.read_bytes()
