"""A catalog of tars that others wrote: what is fit is read where it lies, and a run sees what a copy would show."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_clips import ingest, stored
from leak_factory import make_labelled
from tar_factory import encoded, still, write_tar

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.writer import ContentHash
from trocar.data.ingest.options import IngestSummary
from trocar.data.ingest.tars.tar_samples import TarFields
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.errors import ConfigError, TrocarError

UNFIT = {
    "turned": "turned by EXIF",
    "png": "PNG",
    "progressive": "progressive JPEG",
    "webp": "WebP",
    "grey": "grey JPEG",
}


def in_place(tars: Path, out: Path, /, **options: Any) -> IngestSummary:
    return ingest(tars, out, in_place=True, **options)[0]


def extension(kind: str) -> str:
    return kind if kind in ("png", "webp") else "jpg"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars: baseline pictures, and one of each kind that is not fit."""
    root = tmp_path_factory.mktemp("foreign")
    members = {f"case{i % 3}/{i:03d}.jpg": encoded(still(i)) for i in range(10)}
    write_tar(root / "data-000.tar", members | {"case0/readme.txt": b"of no picture"})
    odd = {f"odd/{kind}.{extension(kind)}": encoded(still(20 + i), kind) for i, kind in enumerate(UNFIT)}
    write_tar(root / "data-001.tar", odd | {"plain.jpg": encoded(still(30)), "cut.jpg": encoded(still(31))[:-200]})
    return root


def test_what_is_fit_is_read_where_it_lies_and_the_rest_is_counted_by_reason(mixed: Path, tmp_path: Path) -> None:
    summary = in_place(mixed, tmp_path / "catalog")
    assert summary.in_place == 11
    assert summary.transcoded == dict.fromkeys(UNFIT.values(), 1)
    assert summary.left_out == {"key without a picture": 1}
    assert [(item.path.rpartition("/")[2], item.reason) for item in summary.rejected] == [("cut", "undecodable image")]
    assert (summary.stills, summary.frames) == (16, 16)
    catalog = Catalog.open(tmp_path / "catalog")
    first = catalog.shard_paths[catalog.frames["shard"][0]]
    assert first.resolve() == (mixed / "data-000.tar").resolve()
    own = [path for path in catalog.shard_paths if not path.is_symlink()]
    assert sum(path.stat().st_size for path in own) < (mixed / "data-001.tar").stat().st_size * 1.5
    assert len(own) == 1
    assert main(["inspect", str(tmp_path / "catalog"), "--verify"]) == 0


def test_unfit_pictures_are_left_out_with_a_count_where_the_user_says_so(mixed: Path, tmp_path: Path) -> None:
    summary = in_place(mixed, tmp_path / "catalog", unfit="leave-out")
    assert summary.left_out == {"key without a picture": 1, **dict.fromkeys(UNFIT.values(), 1)}
    assert (summary.frames, summary.in_place, sum(summary.transcoded.values())) == (11, 11, 0)
    assert all(path.is_symlink() for path in Catalog.open(tmp_path / "catalog").shard_paths)


def test_batches_are_those_of_a_copied_ingest(mixed: Path, tmp_path: Path) -> None:
    for path in sorted(mixed.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tmp_path / "files" / path.stem / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
    ingest(tmp_path / "files", tmp_path / "copied", stills=True, source="web")
    in_place(mixed, tmp_path / "catalog", source="web")
    copied, catalog = Catalog.open(tmp_path / "copied"), Catalog.open(tmp_path / "catalog")
    assert catalog.videos["name"].to_pylist() == copied.videos["name"].to_pylist()
    assert catalog.fingerprint == copied.fingerprint
    for name in ("black", "blurred", "near_duplicate", "dhash", "sharpness"):
        np.testing.assert_array_equal(catalog.quality([name])[name], copied.quality([name])[name])
    plans = [Plan(Composition(curate="none").resolve(one), batch=8, seed=3) for one in (catalog, copied)]
    readers = [Reader(one) for one in (catalog, copied)]
    assert plans[0].selection.fingerprint == plans[1].selection.fingerprint
    for step in range(4):
        rows = [plan.rows(step) for plan in plans]
        np.testing.assert_array_equal(*rows)
        assert [readers[0].read(row) for row in rows[0]] == [readers[1].read(row) for row in rows[1]]


def test_an_exif_segment_that_turns_nothing_and_other_chroma_stay_in_place(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {f"{kind}.jpg": encoded(still(1), kind) for kind in ("exif", "422", "444")})
    summary = in_place(tar, tmp_path / "catalog")
    assert (summary.in_place, sum(summary.transcoded.values())) == (3, 0)
    catalog = Catalog.open(tmp_path / "catalog")
    assert [len(Reader(catalog).read(row)) for row in range(3)] == catalog.frames["size"].tolist()


def test_bytes_behind_a_picture_are_not_its_own(tmp_path: Path) -> None:
    picture = encoded(still(1))
    tar = write_tar(tmp_path / "a.tar", {"a.jpg": picture + b"a thumbnail of somebody"})
    assert in_place(tar, tmp_path / "catalog").in_place == 1
    assert Reader(Catalog.open(tmp_path / "catalog")).read(0) == picture


def test_a_finished_tar_is_not_read_again_and_a_changed_one_is(mixed: Path, tmp_path: Path) -> None:
    tars = [write_tar(tmp_path / f"t{i}.tar", {"a.jpg": encoded(still(i))}) for i in range(2)]
    out = tmp_path / "catalog"
    first = in_place(tmp_path, out)
    assert (first.ingested_stills, first.finished_before) == (2, 0)
    again = in_place(tmp_path, out)
    assert (again.ingested_stills, again.finished_before, again.fingerprint) == (0, 2, first.fingerprint)
    write_tar(tars[1], {"a.jpg": encoded(still(7)), "b.jpg": encoded(still(8))})
    changed = in_place(tmp_path, out)
    assert (changed.ingested_stills, changed.finished_before, changed.frames) == (2, 1, 3)
    more = in_place(mixed / "data-000.tar", out)
    assert more.frames == 13  # tars may join later


@pytest.fixture
def operations(tmp_path: Path) -> Path:
    """Frames of two videos, shuffled over two tars, with what is known of them in JSON."""
    pictures = {(video, k): encoded(still(100 + 10 * i + k)) for i, video in enumerate("ab") for k in range(4)}
    order = [("a", 2), ("b", 0), ("a", 0), ("b", 3), ("b", 1), ("a", 3), ("a", 1), ("b", 2)]
    for tar in range(2):
        members: dict[str, Any] = {}
        for video, k in order[4 * tar : 4 * tar + 4]:
            said = {"frame": 25 * k + 1, "meta": {"video": f"op {video}", "patient": f"p{video}", "centre": "north"}}
            members |= {f"{video}_{k}.jpg": pictures[video, k], f"{video}_{k}.json": said}
        write_tar(tmp_path / "tars" / f"part-{tar:02d}.tar", members)
    return tmp_path / "tars" / "part-{00..01}.tar"


FIELDS = TarFields(video="meta.video", time="frame", case="meta.patient", hospital="meta.centre")


def test_json_says_of_which_video_and_time_a_frame_is(operations: Path, tmp_path: Path) -> None:
    in_place(operations, tmp_path / "catalog", wds=FIELDS, frames_fps=50, first_number=1, source="ours")
    catalog = Catalog.open(tmp_path / "catalog")
    wanted = ["name", "case_id", "source", "hospital", "fps", "duration_s"]
    assert [list(row.values()) for row in catalog.videos.select(wanted).to_pylist()] == [
        ["op_a", "pa", "ours", "north", 2.0, 2.0],
        ["op_b", "pb", "ours", "north", 2.0, 2.0],
    ]
    assert catalog.frames["time_s"].tolist() == [0.0, 0.5, 1.0, 1.5] * 2
    assert catalog.quality(["dhash_distance"])["dhash_distance"][[0, 4]].tolist() == [256, 256]
    content = ContentHash()
    for row in range(4):
        content.add(catalog.frames["time_s"][row], Reader(catalog).read(row))
        assert Reader(catalog).read(row) == encoded(still(100 + row))
    assert catalog.videos["content_hash"][0].as_py() == content.hexdigest()


def test_groups_of_the_key_say_it_where_there_is_no_json(operations: Path, tmp_path: Path) -> None:
    fields = TarFields(key=r"(?P<video>\w)_(?P<time>\d)")
    in_place(operations, tmp_path / "catalog", wds=fields)
    catalog = Catalog.open(tmp_path / "catalog")
    assert catalog.videos["name"].to_pylist() == ["a", "b"]
    assert [time for time, _ in stored(catalog, "b")] == [0.0, 1.0, 2.0, 3.0]


def test_frames_without_what_is_asked_for_and_of_one_time_are_rejected(tmp_path: Path) -> None:
    members: dict[str, Any] = {}
    for key, said in {
        "a": {"v": "x", "t": 0},
        "b": {"v": "x"},
        "c": {"v": "x", "t": 0},
        "d": {"v": "x", "t": "?"},
    }.items():
        members |= {f"{key}.jpg": encoded(still(ord(key))), f"{key}.json": said}
    tar = write_tar(tmp_path / "a.tar", members | {"e.jpg": encoded(still(5)), "f.json": b"{"})
    summary = in_place(tar, tmp_path / "catalog", wds=TarFields(video="v", time="t"))
    reasons = sorted((item.path.rpartition("/")[2], item.reason) for item in summary.rejected)
    assert reasons == [("b", "no metadata"), ("c", "same time"), ("d", "no metadata"), ("e", "no metadata")]
    assert (summary.frames, summary.left_out) == (1, {"key without a picture": 1})


def test_a_video_of_two_patients_is_an_error(tmp_path: Path) -> None:
    frames = {f"{k}.json": {"v": "x", "t": k, "p": f"p{k}"} for k in range(2)}
    tar = write_tar(tmp_path / "a.tar", {**frames, **{f"{k}.jpg": encoded(still(k)) for k in range(2)}})
    with pytest.raises(TrocarError, match="its frames are of two of case, 'p0' and 'p1'"):
        in_place(tar, tmp_path / "catalog", wds=TarFields(video="v", time="t", case="p"))


def test_of_several_pictures_of_a_key_one_has_to_be_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.left.jpg": encoded(still(1)), "a.right.jpg": encoded(still(2))})
    assert [item.reason for item in in_place(tar, tmp_path / "none").rejected] == ["several pictures"]
    in_place(tar, tmp_path / "right", wds=TarFields(image="right.jpg"))
    assert Reader(Catalog.open(tmp_path / "right")).read(0) == encoded(still(2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stills": True}, "--stills is not for it"),
        ({"masks": Path("masks.csv")}, "nothing can be blacked out where it lies"),
        ({"pseudonymize": Path("key")}, "the names stay in the tars"),
        ({"wds": TarFields(video="v")}, "give --wds-time"),
        ({"frames_fps": 25}, "give --wds-time"),
    ],
)
def test_what_cannot_be_done_in_place_is_refused(
    mixed: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        in_place(mixed, tmp_path / "catalog", **options)
    assert not (tmp_path / "catalog").exists()


def test_the_size_of_pictures_in_place_is_theirs(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ingest", str(mixed / "data-000.tar"), "--in-place", "--out", str(tmp_path / "catalog"), "--workers", "1"]
    assert main([*words, "--short-side", "256"]) == 2
    assert "--short-side is not for it" in capsys.readouterr().err
    assert main(words) == 0
    assert "10 pictures" in capsys.readouterr().out
    assert set(Catalog.open(tmp_path / "catalog").frames["height"].tolist()) == {96}


def test_a_copied_and_an_in_place_ingest_do_not_share_a_folder(mixed: Path, tmp_path: Path) -> None:
    in_place(mixed, tmp_path / "catalog")
    (tmp_path / "pictures").mkdir()
    still(1).save(tmp_path / "pictures" / "a.png")
    with pytest.raises(ConfigError, match="give another folder to --out"):
        ingest(tmp_path / "pictures", tmp_path / "catalog", stills=True)
    ingest(tmp_path / "pictures", tmp_path / "copied", stills=True)
    with pytest.raises(ConfigError, match="give another folder to --out"):
        in_place(mixed, tmp_path / "copied")


def test_a_tar_is_named_with_what_to_do(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--in-place makes a catalog"):
        ingest(mixed / "data-000.tar", tmp_path / "catalog")
    with pytest.raises(ConfigError, match=r"data-002\.tar: no such file"):
        in_place(mixed / "data-{000..002}.tar", tmp_path / "catalog")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(mixed / "data-000.tar", "a.jpg")
    with pytest.raises(ConfigError, match=r"compressed \(gzip\)"):
        in_place(tmp_path / "b.tar.gz", tmp_path / "catalog")


def test_a_tar_that_ends_early_is_rejected_and_the_others_stay(tmp_path: Path) -> None:
    write_tar(tmp_path / "whole.tar", {"a.jpg": encoded(still(1))})
    cut = write_tar(tmp_path / "cut.tar", {"a.jpg": encoded(still(2), "444")})
    cut.write_bytes(cut.read_bytes()[:1500])
    summary = in_place(tmp_path, tmp_path / "catalog")
    assert [(Path(item.path).name, item.reason) for item in summary.rejected] == [("cut.tar", "truncated")]
    assert summary.frames == 1


def test_the_leak_guard_finds_test_pictures_by_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {name: still(900 + i, (320, 240)) for i, name in enumerate(("copied", "anew", "free", "alone"))}
    data = make_labelled(tmp_path / "stills", {"p0": [pictures["copied"]], "p1": [pictures["anew"]]})
    kinds = {"anew": "progressive"}
    write_tar(tmp_path / "web.tar", {f"{name}.jpg": encoded(p, kinds.get(name, "444")) for name, p in pictures.items()})
    in_place(tmp_path / "web.tar", tmp_path / "catalog")
    assert main(["leaks", str(tmp_path / "catalog"), "--against", str(data)]) == 1
    said = capsys.readouterr().out
    assert "web_copied" in said
    assert "web_anew" in said
    assert "web_free" not in said
