"""What of a folder is ingested, under which names, and what is said of the rest."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from trocar.data.ingest.jobs import plan
from trocar.data.ingest.options import IngestOptions
from trocar.errors import ConfigError

FRAMES: dict[str, Any] = {"frames": "{number}.jpg", "frames_fps": 1, "first_number": 0}


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def planned(folder: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Metadata by video, and the warnings."""
    said: list[str] = []
    jobs = plan(IngestOptions(sources=(folder,), out=folder.parent / "out", **options), said.append)
    return {job.name: job.metadata for job in jobs}, [line for line in said if line.startswith("warning")]


def test_one_video_above_folders_of_videos_does_not_hide_them(tmp_path: Path) -> None:
    found, said = planned(make(tmp_path / "in", "intro.mp4", "hospital_a/a.mp4", "hospital_b/b.mkv"))
    assert list(found) == ["hospital_a_a", "hospital_b_b", "intro"]
    assert said == []


def test_a_folder_named_videos_is_the_folder_of_the_videos_and_others_are_named(tmp_path: Path) -> None:
    found, said = planned(make(tmp_path / "in", "videos/a.mp4", "videos/part2/b.mp4", "other/c.mp4"))
    assert list(found) == ["a", "part2_b"]
    assert len(said) == 1
    assert said[0].startswith("warning: left out: 1 videos outside of videos/")
    assert "other/c.mp4" in said[0]


def test_videos_in_linked_folders_are_taken(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "here/a.mp4")
    make(tmp_path / "elsewhere", "b.mp4")
    (folder / "there").symlink_to(tmp_path / "elsewhere")
    assert list(planned(folder)[0]) == ["here_a", "there_b"]


def test_frames_beside_videos_are_named_or_taken_where_it_is_said_how(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "a.mp4", "frames_of_b/0.jpg", "frames_of_b/1.jpg", "c/0.jpg")
    found, said = planned(folder)
    assert list(found) == ["a"]
    assert len(said) == 1
    assert "2 folders of images beside the videos (3 images)" in said[0]
    assert "frames_of_b" in said[0]
    assert list(planned(folder, **FRAMES)[0]) == ["a", "c", "frames_of_b"]
    (folder / "videos.csv").write_text("video,frames,frames_fps,first_number\na,,,\nc,{number}.jpg,1,0\n")
    found, said = planned(folder)
    assert list(found) == ["a", "c"]
    assert "1 folder of images beside the videos (2 images)" in said[0]


def test_leftovers_of_systems_and_viewers_do_not_stop_an_ingest(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "c1/0.jpg", "c1/1.jpg", "__MACOSX/c1/._0.jpg", "@eaDir/thumb.jpg", "c1/._0.jpg")
    assert planned(folder, **FRAMES) == ({"c1": planned(folder, **FRAMES)[0]["c1"]}, [])


def test_a_folder_in_which_nothing_matches_is_a_warning_while_another_matches(tmp_path: Path) -> None:
    found, said = planned(make(tmp_path / "in", "poster.jpg", "c1/0.jpg"), **FRAMES)
    assert list(found) == ["c1"]
    assert len(said) == 1
    assert "1 folder in which no image matches --frames '{number}.jpg'" in said[0]
    with pytest.raises(ConfigError, match=r"no file name matches --frames"):
        planned(make(tmp_path / "none", "poster.jpg"), **FRAMES)


def test_a_pattern_of_a_folder_s_own_has_to_match(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "c1/0.jpg", "c2/x.jpg")
    (folder / "videos.csv").write_text("video,frames,frames_fps,first_number\nc1,,,\nc2,img{number}.jpg,1,0\n")
    with pytest.raises(ConfigError, match=r"c2: no file name matches --frames 'img\{number\}.jpg'"):
        planned(folder, **FRAMES)


@pytest.mark.parametrize("pattern", [r"(?P<number>.+)\.jpg", r"(x(?P<number>\d))?.*\.jpg"])
def test_a_pattern_that_finds_no_number_is_an_error_that_names_the_way_out(tmp_path: Path, pattern: str) -> None:
    folder = make(tmp_path / "in", "c1/lesion.jpg")
    with pytest.raises(ConfigError, match=r"lesion.jpg: --frames .* is no whole number; .*--stills"):
        planned(folder, frames=pattern, frames_fps=1, first_number=0)


def test_kinds_of_files_that_nobody_reads_are_counted(tmp_path: Path) -> None:
    _, said = planned(make(tmp_path / "in", "a.mp4", "b.dcm", "c.DCM", "notes.txt"))
    assert said == [
        f"warning: left out: 2 files of kinds that are not read (2 .dcm): {tmp_path / 'in' / 'b.dcm'}, "
        f"{tmp_path / 'in' / 'c.DCM'}"
    ]


def test_file_names_of_macos_fit_a_table_and_are_named_as_elsewhere(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Grün")
    table = "video,case_id,hospital\nGrün_1.mp4,g,north\nGrün_2.mp4,g,north\n"
    names = {}
    for form, stem in (("nfd", apart), ("nfc", "Grün")):
        folder = make(tmp_path / form, f"{stem}_1.mp4", f"{stem}_2.mp4")
        (folder / "videos.csv").write_text(table, encoding="utf-8")
        found, said = planned(folder)
        assert said == []
        assert {(meta.case_id, meta.hospital) for meta in found.values()} == {("g", "north")}
        names[form] = list(found)
    assert names["nfd"] == names["nfc"]


@pytest.mark.parametrize("spelling", ["{}/a.mp4", "{}\\a.mp4", "./{}/a", "{}_a"])
def test_equal_names_in_different_folders_are_told_apart_by_their_folders(tmp_path: Path, spelling: str) -> None:
    folder = make(tmp_path / "in", "d1/a.mp4", "d2/a.mp4")
    rows = [f"{spelling.format(name)},{name}" for name in ("d1", "d2")]
    (folder / "videos.csv").write_text("\n".join(["video,hospital", *rows]) + "\n")
    found, said = planned(folder)
    assert {name: meta.hospital for name, meta in found.items()} == {"d1_a": "d1", "d2_a": "d2"}
    assert said == []


def test_a_name_that_may_be_several_videos_is_an_error_that_names_them(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "d1/a.mp4", "d2/a.mp4", "d2/b.mp4")
    (folder / "videos.csv").write_text("video,hospital\nb.mp4,x\na.mp4,y\n")
    with pytest.raises(ConfigError, match=r"videos.csv: row 2: 'a.mp4' may be d1/a.mp4, d2/a.mp4: give its whole path"):
        planned(folder)


def test_one_video_under_two_spellings_stands_there_twice(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "d1/a.mp4")
    (folder / "videos.csv").write_text("video,hospital\nd1/a.mp4,x\nd1_a,y\n")
    with pytest.raises(ConfigError, match=r"videos.csv: row 2: video 'd1_a' stands there twice, in row 1 too"):
        planned(folder)


def test_excluded_seconds_may_name_the_file_as_well(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "d1/a.mp4")
    (tmp_path / "exclude.csv").write_text("video,start,end\nd1/a.mp4,1,2\nd1_a,5,\n")
    jobs = plan(
        IngestOptions(sources=(folder,), out=tmp_path / "out", exclude=tmp_path / "exclude.csv"), lambda _: None
    )
    assert jobs[0].excluded == ((1.0, 2.0), (5.0, float("inf")))
