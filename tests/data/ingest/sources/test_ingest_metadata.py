"""What videos.csv and --case-regex say is used, and what they say in vain is not passed over."""

from pathlib import Path

import pytest

from trocar.data.ingest.jobs import plan
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.sources.find import FoundSource
from trocar.data.ingest.sources.metadata import Lookup, read_table
from trocar.errors import ConfigError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("op1_1.mp4", "op1_2.mp4", "intro.mp4"):
        (folder / name).write_bytes(b"")
    return folder


def cases(folder: Path, **kwargs: object) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    options = IngestOptions.model_validate({"sources": [folder], "out": folder.parent / "out"} | kwargs)
    return {job.name: job.metadata.case_id for job in plan(options, said.append)}, said


def test_a_name_in_videos_csv_may_carry_the_ending_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    path.write_text("video,hospital\nop1_1.mp4,north\nop1.2,south\nother.mp4,east\n")
    found = [FoundSource(name, Path(name), name, False, "", f"{name}.mp4") for name in ("op1_1", "op1_2")]
    table = read_table(path, Lookup(found).find)
    assert [table.of(Path(name))["hospital"] for name in ("op1_1", "op1_2")] == ["north", "south"]
    assert table.strangers == ["other.mp4"]


def test_a_table_that_describes_none_of_the_videos_is_an_error(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("video,hospital\nvideo01,north\n")
    with pytest.raises(ConfigError, match=r"describes none of the videos: it names video01, found were intro"):
        cases(videos, metadata=path)


def test_a_case_regex_that_matches_no_video_is_an_error(videos: Path) -> None:
    with pytest.raises(ConfigError, match=r"matches no video as a whole, such as 'intro'"):
        cases(videos, case_regex=r"(?P<case>video\d+)_(?P<part>\d)")


def test_videos_that_a_case_regex_passes_over_are_named(videos: Path) -> None:
    found, said = cases(videos, case_regex=r"(?P<case>.+)_(?P<part>\d)")
    assert found == {"intro": "intro", "op1_1": "op1", "op1_2": "op1"}
    assert "warning: --case-regex does not match 1 videos, each its own case: intro" in said


def test_ids_of_videos_csv_stay_as_they_are_written(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("video,case_id,split\nop1_1,001,train;fold1\nop1_2,NA,\nintro,,test\n")
    assert cases(videos, metadata=path)[0] == {"op1_1": "001", "op1_2": "NA", "intro": "intro"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video;case_id\nop1_1;7\n", "its columns are separated by ';'; write a CSV file with commas"),
        ("video,case_id\nop1_1\n", "row 1: 1 cell, but 2 cells in the first line"),
        ("video,case_id,case_id\nop1_1,7,8\n", "two columns are called 'case_id'"),
        ("video,split\nop1_1,Train\n", r"split 'Train': expected train, val, test \(did you mean 'train'\?\)"),
        ("video,split\nop1_1,fold1;validation\n", r"split 'validation': expected train, .* \(did you mean 'val'\?\)"),
        ("video,part\nop1_1,1_0\n", "part = '1_0': expected a whole number"),
        ("video,robotic\nop1_1,maybe\n", "robotic = 'maybe': expected true, false or nothing"),
    ],
)
def test_a_videos_csv_that_cannot_be_is_refused(videos: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        cases(videos, metadata=path)


def test_two_tables_that_could_be_meant_are_an_error_and_neither_is_passed_over(videos: Path, tmp_path: Path) -> None:
    for place, case in ((videos, "inside"), (tmp_path, "beside")):
        (place / "videos.csv").write_text(f"video,case_id\nop1_1,{case}\n")
    with pytest.raises(ConfigError, match=r"videos/videos.csv.*both could be meant; name one with --metadata"):
        cases(videos)
    found, _ = cases(videos, metadata=videos / "videos.csv")
    assert found["op1_1"] == "inside"
    (videos / "videos.csv").unlink()
    found, said = cases(videos)
    assert found["op1_1"] == "beside"
    assert f"metadata from {tmp_path / 'videos.csv'}" in said


def test_a_videos_csv_of_another_encoding_says_what_to_do(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_bytes("video,hospital\nop1_1,Zürich\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"line 2: byte 0xfc is not UTF-8 .*; save the file as UTF-8"):
        cases(videos, metadata=path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("op1_1,nan,5", "row 2: 'nan' is not a number"),
        ("op1_1,0,inf", "row 2: 'inf' is not a number"),
        ("op1_1,5,5", "row 2: start '5' is not before end '5'"),
        ("op9,0,5", "row 2: no video 'op9'"),
    ],
)
def test_an_exclusion_that_cannot_be_is_named_with_its_row(
    videos: Path, tmp_path: Path, row: str, message: str
) -> None:
    path = tmp_path / "exclude.csv"
    path.write_text(f"video,start,end\nintro,,3\n{row}\n")
    with pytest.raises(ConfigError, match=message):
        cases(videos, exclude=path)


def test_masks_are_whole_pixels_and_sources_are_names(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "masks.yaml"
    path.write_text("001: [[0, 0, 10.5, 4]]\n")
    with pytest.raises(ConfigError, match=r"not \[0, 0, 10\.5, 4\]"):
        cases(videos, masks=path, source="001")
    path.write_text("001: [[0, 0, 10, 4]]\n")
    assert cases(videos, masks=path, source="001")[0]
