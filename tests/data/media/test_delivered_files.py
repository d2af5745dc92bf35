"""Folders as people deliver them: every file once, links too, and nothing of what systems leave behind."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from trocar.data.media.delivered_files import entry, is_leftover, listed, posix_name, video_key, walk, without_ending


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in walk(root).files]


def test_files_at_every_depth_are_found_in_order(tmp_path: Path) -> None:
    assert names(make(tmp_path, "b.mp4", "a/x/2.jpg", "a/x/10.jpg")) == ["a/x/10.jpg", "a/x/2.jpg", "b.mp4"]


def test_a_linked_folder_is_walked_as_if_it_stood_there(tmp_path: Path) -> None:
    make(tmp_path, "src/here/a.mp4", "elsewhere/deep/b.mp4")
    (tmp_path / "src" / "there").symlink_to("../elsewhere")
    tree = walk(tmp_path / "src")
    assert [path.relative_to(tmp_path / "src").as_posix() for path in tree.files] == ["here/a.mp4", "there/deep/b.mp4"]
    assert tree.omissions == ()


@pytest.mark.parametrize("target", [".", "..", "here", "loop"])
def test_a_link_to_what_is_taken_anyway_or_to_a_folder_around_it_is_named_and_not_followed(
    tmp_path: Path, target: str
) -> None:
    source = make(tmp_path / "src", "here/a.mp4")
    make(tmp_path, "sibling/b.mp4")
    (source / "loop").symlink_to(target)
    tree = walk(source)
    assert [path.name for path in tree.files if path.suffix] == ["a.mp4"]
    assert [path.name for item in tree.omissions for path in item.paths] == ([] if target == "loop" else ["loop"])


def test_a_folder_linked_twice_is_taken_once(tmp_path: Path) -> None:
    make(tmp_path, "src/x.txt", "elsewhere/b.mp4")
    for name in ("one", "two"):
        (tmp_path / "src" / name).symlink_to(tmp_path / "elsewhere")
    tree = walk(tmp_path / "src")
    assert [path.relative_to(tmp_path / "src").as_posix() for path in tree.files] == ["one/b.mp4", "x.txt"]
    assert [path.name for item in tree.omissions for path in item.paths] == ["two"]


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    make(tmp_path, "src/x.txt", "left/l.mp4", "right/r.mp4")
    (tmp_path / "src" / "go").symlink_to(tmp_path / "left")
    (tmp_path / "left" / "on").symlink_to(tmp_path / "right")
    (tmp_path / "right" / "back").symlink_to(tmp_path / "left")
    assert names(tmp_path / "src") == ["go/l.mp4", "go/on/r.mp4", "x.txt"]


def test_what_systems_and_viewers_leave_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "c1/1.jpg", "__MACOSX/c1/._1.jpg", "@eaDir/thumb.jpg", "c1/Thumbs.db", "c1/.DS_Store", ".x/1.jpg")
    assert names(tmp_path) == ["c1/1.jpg"]
    assert listed(tmp_path, "*/*.jpg") == [tmp_path / "c1" / "1.jpg"]
    assert is_leftover("desktop.ini")
    assert not is_leftover("desktop.mp4")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "open/a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("trocar.data.media.delivered_files.os.scandir", refusing)
    tree = walk(tmp_path)
    assert [path.name for path in tree.files] == ["a.mp4"]
    assert [(item.what, item.paths) for item in tree.omissions] == [
        ("folders that cannot be read", (tmp_path / "closed",))
    ]


def test_names_are_the_same_in_either_unicode_form(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Grün")
    assert apart != "Grün"
    assert video_key(f"videos/{apart}_1.MP4") == video_key("Grün_1") == "Grün_1"
    make(tmp_path, f"{apart}/1.jpg")
    assert entry(tmp_path, "Grün") == tmp_path / apart
    assert entry(tmp_path, "other") == tmp_path / "other"


def test_only_endings_of_media_are_endings() -> None:
    assert [without_ending(name) for name in ("a.mp4", "d/a.b.JPG", "op1.2")] == ["a", "d/a.b", "op1.2"]
    assert posix_name(".\\d1\\a.mp4 ") == "d1/a.mp4"
