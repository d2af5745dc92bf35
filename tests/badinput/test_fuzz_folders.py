"""Odd names, links and folders: every file is rejected with a reason or stored, none is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzz_factory import ingest
from ingest_clips import constant, make_clip, stored


def test_names_with_blanks_dots_and_letters_of_any_script(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    whole = make_clip(tmp_path / "whole.mp4", constant(25, 5)).read_bytes()
    names = [
        "case 7.1.final.mp4",
        "Björn Å.mp4",
        "手術.mp4",
        "手術2.mp4",
        "-rf.mp4",
        "a'b\"c;d$(e).mp4",
        "new\nline.mp4",
    ]
    names.append(os.fsdecode(b"latin-\xe9.mp4"))
    for name in names:
        (tmp_path / "in" / name).write_bytes(whole)
    (tmp_path / "in" / "gone.mp4").symlink_to("/nowhere/at/all.mp4")
    (tmp_path / "in" / os.fsdecode(b"bad-\xff.mp4")).write_bytes(b"no video \xff\xfe")
    catalog, rejected = ingest(tmp_path / "in", tmp_path / "out")
    found = catalog.videos["name"].to_pylist()
    assert len(set(found)) == len(names)
    assert {"case_7_1_final", "a_b_c_d_e", "new_line"} <= set(found)
    assert all(len(stored(catalog, name)) == 1 for name in found)
    assert rejected == {"gone.mp4": "unreadable", "bad-\\xff.mp4": "not a video"}


def test_rejections_of_one_source_outlive_the_ingest_of_another_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_clip(tmp_path / name / f"good_{name}.mp4", constant(25, 5))
    (tmp_path / "a" / "bad.mp4").write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    ingest(Path("a"), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "b")
    _, rejected = ingest(Path(), tmp_path / "out")
    assert rejected == {"bad.mp4": "not a video"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "bad.mp4").unlink()
    assert ingest(Path("a"), tmp_path / "out")[1] == {}
