"""Names in the catalog: pseudonyms, their key and its table."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest
from hostile_media import off
from ingest_clips import constant, make_clip, picture, stored
from private_factory import contents, ingest

from trocar.data.catalog.catalog import Catalog
from trocar.errors import ConfigError


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two parts of one operation, one of another and a text file under a video's name, all named after patients."""
    folder = tmp_path / "Doe_family"
    folder.mkdir()
    for number, name in enumerate(("Jane Doe_1", "Jane Doe_2", "Smith_1")):
        make_clip(folder / f"{name}.mp4", constant(25, 25), numbers=[number] * 25)
    (folder / "Jane Doe broken.mp4").write_text("Jane Doe, born 1970")
    return folder


REGEX = r"(?P<case>.+)_(?P<part>\d)"


def test_pseudonyms_leave_no_name_and_keep_cases_and_parts_together(hospital: Path, tmp_path: Path) -> None:
    key, out = tmp_path / "safe" / "key", tmp_path / "out"
    key.parent.mkdir()
    said = ingest(hospital, out, pseudonymize=key, source="ours", case_regex=REGEX)
    catalog = Catalog.open(out)
    assert catalog.rejected()["reason"].to_pylist() == ["not a video"]
    for text in (b"Doe", b"Smith", b"Jane", b"born"):
        assert text not in contents(out)
        assert not any(text.decode() in line for line in said)
    videos = {row["name"]: row for row in catalog.videos.to_pylist()}
    rows = list(csv.DictReader((tmp_path / "safe" / "key.names.csv").open()))
    assert {Path(row["file"]).name for row in rows} == {path.name for path in hospital.iterdir()}
    shown = {Path(row["file"]).stem: row for row in rows if row["video"] in videos}
    for number, name in enumerate(sorted(shown)):
        video = shown[name]["video"]
        assert videos[video]["case_id"] == shown[name]["case"]
        assert off(stored(catalog, video)[0][1], picture(number)) < 8
    cases = {name: videos[row["video"]]["case_id"] for name, row in shown.items()}
    assert cases["Jane Doe_1"] == cases["Jane Doe_2"] != cases["Smith_1"]
    assert sorted(row["part"] for row in videos.values()) == [1, 1, 2]


def test_the_key_and_its_table_are_for_their_owner_alone(hospital: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    ingest(hospital, tmp_path / "out", pseudonymize=key, source="ours")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "key.names.csv").stat().st_mode) == 0o600
    assert key.read_text().strip().encode() not in contents(tmp_path / "out")
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        ingest(hospital, tmp_path / "out", pseudonymize=key, source="ours")


def test_the_same_key_continues_and_another_one_is_refused(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(hospital, out, pseudonymize=tmp_path / "key", source="ours")
    before = contents(out)
    ingest(hospital, out, pseudonymize=tmp_path / "key", source="ours")
    assert contents(out) == before
    with pytest.raises(ConfigError, match="not of the key"):
        ingest(hospital, out, pseudonymize=tmp_path / "other", source="ours")
    ingest(hospital, tmp_path / "third", pseudonymize=tmp_path / "other", source="ours")
    names = [set(Catalog.open(tmp_path / folder).videos["name"].to_pylist()) for folder in ("out", "third")]
    assert not names[0] & names[1]


@pytest.mark.parametrize("place", ["out/key", "out/catalog/key", "link/key"])
def test_a_key_inside_the_shards_is_refused(hospital: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "out" / "catalog").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(ConfigError, match="lies inside of"):
        ingest(hospital, tmp_path / "out", pseudonymize=tmp_path / place, source="ours")
    assert not (tmp_path / place).exists()


def test_a_file_that_is_no_key_is_refused_and_left_alone(hospital: Path, tmp_path: Path) -> None:
    key = tmp_path / "notes.txt"
    key.write_text("not a key")
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="64 or more hex digits"):
        ingest(hospital, tmp_path / "out", pseudonymize=key, source="ours")
    assert key.read_text() == "not a key"


def test_a_folder_name_does_not_become_the_source_of_pseudonymous_videos(hospital: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say --source"):
        ingest(hospital, tmp_path / "out", pseudonymize=tmp_path / "key")


def test_seconds_are_excluded_by_name_or_by_pseudonym(hospital: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    ingest(hospital, tmp_path / "out", pseudonymize=key, source="ours")
    rows = {Path(r["file"]).stem: r["video"] for r in csv.DictReader((tmp_path / "key.names.csv").open())}
    exclude = tmp_path / "exclude.csv"
    exclude.write_text(f"video,start,end\nJane Doe_1,0,\n{rows['Smith_1']},0,\n")
    ingest(hospital, tmp_path / "out", pseudonymize=key, source="ours", exclude=exclude)
    assert Catalog.open(tmp_path / "out").videos["name"].to_pylist() == [rows["Jane Doe_2"]]
