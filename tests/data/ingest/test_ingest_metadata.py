"""What videos.csv and --case-regex say is used, and what they say in vain is not passed over."""

from pathlib import Path

import pytest

from trocar.data.ingest.lookup import Lookup
from trocar.data.ingest.metadata import read_table
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.plan import plan
from trocar.data.ingest.sources import Found
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
    found = [Found(name, Path(name), name, False, "", f"{name}.mp4") for name in ("op1_1", "op1_2")]
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
