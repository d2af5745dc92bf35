"""From video files to findings: ingest's own crop and hashes against the labelled frames of other files."""

import av
import pandas as pd
import pytest

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.leakage.held_out_sources import held_out
from trocar.leakage.search import find_leaks


@pytest.fixture(scope="module")
def clips(shared_data):
    folder = shared_data / "cholec80_clips" / "clips"
    if not folder.is_dir():
        pytest.skip(f"no clips at {folder}")
    return folder


@pytest.fixture(scope="module")
def pool(clips, tmp_path_factory):
    """Three clips ingested at 1 fps under names that say nothing."""
    root = tmp_path_factory.mktemp("real")
    (root / "hospital").mkdir()
    for name, clip in (("a", "VID26_0692"), ("b", "VID05_1858"), ("c", "VID47_1131")):
        (root / "hospital" / f"{name}.mp4").symlink_to(clips / f"{clip}.mp4")
    assert main(["ingest", str(root / "hospital"), "--out", str(root / "shards"), "--fps", "1"]) == 0
    return Catalog.open(root / "shards")


def labelled(root, videos):
    """One picture a second of each clip, in the `folder` layout."""
    rows = []
    (root / "images").mkdir(parents=True)
    for case, path in videos.items():
        with av.open(str(path)) as container:
            for k, frame in enumerate(container.decode(video=0)):
                if k % 25 == 0:
                    name = f"images/{case}_{k:04d}.jpg"
                    frame.to_image().save(root / name, quality=80)
                    rows.append({"path": name, "case": case, "time_s": k / 25, "phase": int(k > 400)})
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    return root


def test_an_overlapping_window_is_found_in_an_ingested_pool_and_no_other_patient(clips, pool, tmp_path):
    videos = {name: clips / f"{name}.mp4" for name in ("VID26_0693", "VID43_0297", "VID15_1911")}
    leaks = find_leaks(pool, held_out([str(labelled(tmp_path / "set", videos))]), range(3)).leaks
    assert [(leak.pool, leak.test) for leak in leaks] == [("hospital/a", "set/VID26_0693")]
    assert leaks[0].frames >= 10


def test_frames_of_other_patients_in_a_published_layout_are_not_flagged(shared_data, pool):
    root = shared_data / "cholect50_val"
    if not root.is_dir():
        pytest.skip(f"no frames at {root}")
    wanted = held_out([str(root)])
    assert {case for _, case in wanted.cases} <= {"68", "70", "73", "74", "75"}
    assert len(wanted.pictures) > 100
    found = find_leaks(pool, wanted, range(3))
    assert found.leaks == ()
    assert float(found.compared[0].rpartition("about ")[2]) < 0.2  # of 108,288 pairs


def test_a_published_source_is_found_by_its_numbers(clips, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "video26.mp4").symlink_to(clips / "VID26_0692.mp4")
    shards = tmp_path / "shards"
    assert main(["ingest", str(tmp_path / "clips"), "--out", str(shards), "--fps", "1", "--source", "cholec80"]) == 0
    assert main(["leaks", str(shards), "--against", "cholect50/26"]) == 1
    assert "the same operation" in capsys.readouterr().out
    assert main(["leaks", str(shards), "--against", "cholect50:rdv"]) == 0
