"""Isolated pictures: a case each in common shards, without times, the same bytes whatever happened on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_clips import constant, ingest, make_clip, number_in, picture, stored, tree
from PIL import Image

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.inspection import write_review
from trocar.data.ingest import jobs as pool
from trocar.data.ingest import pack as packing
from trocar.data.ingest import record
from trocar.data.ingest.jobs import plan
from trocar.data.ingest.options import IngestOptions
from trocar.data.selection.composition import Amount, Composition
from trocar.data.selection.neighbours import NeighbourSource, resolve_neighbours
from trocar.errors import ConfigError


def make(root: Path, *names: str, first: int = 1) -> Path:
    """Pictures of these names, the k-th of which shows the number first + k."""
    for number, name in enumerate(names, start=first):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path, format="PNG" if path.suffix == ".png" else "JPEG", quality=95)
    return root


def many(root: Path, count: int = 12) -> Path:
    return make(root, *[f"patient {i // 2}/lesion ({i}).jpg" for i in range(count)])


def numbers(catalog: Catalog) -> dict[str, int]:
    return {name: number_in(stored(catalog, name)[0][1]) for name in catalog.videos["name"].to_pylist()}


def cases(catalog: Catalog) -> list[str]:
    return sorted(catalog.videos["case_id"].to_pylist())


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trocar.data.ingest.jobs.PACK", 5)


def test_a_thousand_stills_are_four_shards_and_a_line() -> None:
    assert -(-1000 // packing.PACK) <= 4


@pytest.mark.usefixtures("small_packs")
def test_stills_are_cases_of_their_own_in_common_shards_without_times(tmp_path: Path) -> None:
    summary, said = ingest(many(tmp_path / "in"), tmp_path / "out", stills=True)
    catalog = Catalog.open(tmp_path / "out")
    assert numbers(catalog) == {f"patient_{i // 2}_lesion_{i}": i + 1 for i in range(12)}
    assert len(set(cases(catalog))) == 12
    assert len(catalog.shard_paths) == 3
    videos = catalog.videos.to_pylist()
    assert {(row["fps"], row["duration_s"], row["rows"]) for row in videos} == {(0.0, 0.0, 1)}
    assert catalog.is_still.all()
    assert catalog.frames["time_s"].tolist() == [0.0] * 12
    for row in videos:
        assert row["first_shard"] == row["last_shard"] == catalog.frames["shard"][row["first_row"]]
    assert (summary.stills, summary.ingested_stills, summary.ingested, summary.cases) == (12, 12, 0, 12)
    assert [line for line in said if "stills" in line] == ["12 stills of 12 cases, each a case of its own, in 3 packs"]


@pytest.mark.usefixtures("small_packs")
def test_workers_and_a_second_run_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = many(tmp_path / "in")
    (folder / "patient 0" / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    for workers in (1, 2):
        ingest(folder, tmp_path / str(workers), stills=True, workers=workers)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    before = tree(tmp_path / "1")
    monkeypatch.setattr(packing.Pack, "run", lambda self: pytest.fail("decoded again"))
    summary, _ = ingest(folder, tmp_path / "1", stills=True)
    assert tree(tmp_path / "1") == before
    assert summary.finished_before == 3
    ingest(folder, tmp_path / "1", stills=True, settings=packing.IngestSettings(fps=5, short_side=None, crop="none"))


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("at", [0, 7, 11])
def test_a_kill_in_the_middle_leaves_no_trace(tmp_path: Path, at: int) -> None:
    folder = many(tmp_path / "in")
    ingest(folder, tmp_path / "whole", stills=True)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import trocar.data.ingest.jobs as jobs, trocar.data.ingest.pack as pack\n"
        "from ingest_clips import ingest\n"
        "jobs.PACK, add, count = 5, pack._Packing._add, iter(range(100))\n"
        "def killing(self, still):\n"
        f"    next(count) == {at} and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, still)\n"
        "pack._Packing._add = killing\n"
        "ingest(Path(sys.argv[1]), Path(sys.argv[2]), stills=True)\n"
    )
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    ended = subprocess.run([sys.executable, "-c", script, folder, out], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (out / "catalog" / "catalog.json").exists()
    finished = record.names(out)
    assert len(finished) == at // 5
    summary, _ = ingest(folder, out, stills=True)
    assert summary.finished_before == len(finished)
    assert tree(out) == tree(tmp_path / "whole")


def test_bad_pictures_are_counted_by_reason_and_the_others_ingested(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "a.jpg", "b.png")
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not a picture")
    summary, _ = ingest(folder, tmp_path / "out", stills=True)
    assert sorted(item.reason for item in summary.rejected) == ["empty file", "not an image"]
    catalog = Catalog.open(tmp_path / "out")
    assert numbers(catalog) == {"a": 1, "b": 2}
    assert [Path(row["path"]).name for row in catalog.rejected().to_pylist()] == ["empty.jpg", "text.png"]


def test_a_folder_of_bad_pictures_alone_leaves_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.jpg").touch()
    summary, _ = ingest(tmp_path / "in", tmp_path / "out", stills=True)
    assert (summary.videos, [item.reason for item in summary.rejected]) == (0, ["empty file"])


def test_a_decoder_that_dies_takes_one_picture_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = plan(IngestOptions(sources=(many(tmp_path / "in"),), out=tmp_path / "out", stills=True), lambda _: None)
    pack = jobs[0]
    for name in ("tmp", "videos", "shards"):
        (tmp_path / "out" / name).mkdir(parents=True)
    tried = []

    def dying(works: Any, workers: int) -> Any:
        (work,) = works
        tried.append(work.crashed)
        if "patient_1_lesion_3" not in work.crashed:
            packing._marker(work).write_text(f"{3:09d}")
            raise pool.BrokenProcessPool
        yield work.run()

    monkeypatch.setattr(pool, "_pooled", dying)
    outcome = pool._alone(pack)
    assert tried == [frozenset(), {"patient_1_lesion_3"}]
    assert [(item.reason, Path(item.path).name) for item in outcome.rejected] == [("decoder crashed", "lesion (3).jpg")]
    assert outcome.stills == 11


def test_names_that_come_out_alike_are_told_apart_by_a_hash_and_long_ones_end_in_one(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "a/b.jpg", "a_b.png", "a b.jpg", "c.jpg", "x" * 120 + ".jpg")
    names = list(numbers_of(folder, tmp_path))
    assert names[0].startswith("a_b-")
    assert len({name for name in names if name.startswith("a_b-")}) == 3
    assert "c" in names
    assert max(map(len, names)) == 82
    again = make(tmp_path / "again", "a/b.jpg", "a_b.png", "a b.jpg", "c.jpg", "x" * 120 + ".jpg", "later.jpg")
    assert set(names) < set(numbers_of(again, tmp_path))


def numbers_of(folder: Path, tmp_path: Path) -> dict[str, int]:
    out = tmp_path / f"out of {folder.name}"
    ingest(folder, out, stills=True)
    return numbers(Catalog.open(out))


def test_case_and_hospital_come_from_rows_of_pictures_and_of_folders(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Grün")
    folder = make(tmp_path / "in", f"{apart}.jpg", "p1/day1/a.jpg", "p1/day2/b.jpg", "p2/a.jpg", "p2/c.jpg")
    rows = ["Grün.jpg,g,north", "p1,one,south", "p1/day2/b.jpg,,east", "p2/c,three,"]
    (folder / "videos.csv").write_text("\n".join(["video,case_id,hospital", *rows]), encoding="utf-8")
    _, said = ingest(folder, tmp_path / "out", stills=True)
    videos = Catalog.open(tmp_path / "out").videos.to_pylist()
    found = {row["name"].split("-")[0]: (row["case_id"], row["hospital"]) for row in videos}
    assert found == {
        "Gr_n": ("g", "north"),
        "p1_day1_a": ("one", "south"),
        "p1_day2_b": ("one", "east"),
        "p2_a": ("p2_a", ""),
        "p2_c": ("three", ""),
    }
    assert "warning: 1 stills have no row in videos.csv: p2_a" in said


def test_a_regex_on_the_path_gives_the_case(tmp_path: Path) -> None:
    ingest(many(tmp_path / "in"), tmp_path / "out", stills=True, case_regex=r"(?P<case>[^/]+)/.*")
    assert cases(Catalog.open(tmp_path / "out")) == [f"patient {i // 2}" for i in range(12)]


def test_the_word_stills_in_videos_csv_is_for_that_folder_or_picture(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "in", "seq/0.jpg", "seq/1.jpg", "atlas/x.jpg", "atlas/deep/y.jpg", "lone/z.jpg", "lone/w.jpg"
    )
    rows = ["seq,{number}.jpg,1,0", "atlas,stills,,", "lone/z.jpg,stills,,"]
    (folder / "videos.csv").write_text("\n".join(["video,frames,frames_fps,first_number", *rows]))
    _, said = ingest(folder, tmp_path / "out")
    videos = Catalog.open(tmp_path / "out").videos.to_pylist()
    assert {row["name"]: row["fps"] for row in videos} == {"atlas_deep_y": 0, "atlas_x": 0, "lone_z": 0, "seq": 1}
    assert "warning: left out: 1 images of folders of which videos.csv calls only others stills" in said


def test_stills_and_videos_of_one_folder_are_ingested_together(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "atlas/b.jpg")
    make_clip(folder / "a.mp4", constant(25, 50))
    summary, _ = ingest(folder, tmp_path / "out", stills=True)
    catalog = Catalog.open(tmp_path / "out")
    assert {row["name"]: (row["fps"], row["rows"]) for row in catalog.videos.to_pylist()} == {
        "a": (1.0, 2),
        "atlas_b": (0.0, 1),
    }
    assert (summary.ingested, summary.ingested_stills, summary.videos, summary.stills) == (1, 1, 2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stills": True, "frames": "{number}.jpg"}, "give one of them"),
        (
            {"stills": True, "case_regex": "(?P<case>.+)/x"},
            "--case-regex .* matches no video as a whole, such as 'a",
        ),
    ],
)
def test_contradictions_are_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(IngestOptions(sources=(make(tmp_path / "in", "a.jpg"),), out=tmp_path / "out", **options), lambda _: None)


def test_a_single_picture_needs_the_word_and_videos_alone_are_no_stills(tmp_path: Path) -> None:
    path = make(tmp_path / "in", "a.jpg") / "a.jpg"
    with pytest.raises(ConfigError, match=r"a\.jpg is a single picture: --stills"):
        plan(IngestOptions(sources=(path,), out=tmp_path / "out"), lambda _: None)
    (work,) = plan(IngestOptions(sources=(path,), out=tmp_path / "out", stills=True), lambda _: None)
    assert work.videos == ("a",)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    with pytest.raises(ConfigError, match="--stills: no pictures below"):
        plan(IngestOptions(sources=(tmp_path / "videos",), out=tmp_path / "out", stills=True), lambda _: None)


@pytest.mark.usefixtures("small_packs")
def test_pictures_that_come_and_go_leave_what_an_ingest_of_all_that_is_there_makes(tmp_path: Path) -> None:
    folder = many(tmp_path / "in")
    ingest(folder, tmp_path / "out", stills=True)
    make(folder, "patient 0/another.jpg", first=77)
    (folder / "patient 3" / "lesion (6).jpg").unlink()
    ingest(folder, tmp_path / "out", stills=True)
    ingest(folder, tmp_path / "new", stills=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "new")


@pytest.mark.usefixtures("small_packs")
def test_another_folder_joins_and_namesakes_of_another_source_are_refused(tmp_path: Path) -> None:
    ingest(make(tmp_path / "one", "a.jpg"), tmp_path / "out", stills=True, source="x")
    ingest(make(tmp_path / "two", "b.jpg"), tmp_path / "out", stills=True, source="x")
    assert list(numbers(Catalog.open(tmp_path / "out"))) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"another video or still named 'a' .* of source 'x' \(this one is of 'y'\)"):
        ingest(make(tmp_path / "three", "a.jpg", "c.jpg"), tmp_path / "out", stills=True, source="y")
    clips = tmp_path / "clips"
    clips.mkdir()
    make_clip(clips / "b.mp4", constant(25, 25))
    with pytest.raises(ConfigError, match="another video or still named 'b'"):
        ingest(clips, tmp_path / "out", source="y")


def test_changed_metadata_only_rewrite_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "in", "a.jpg", "b.jpg")
    ingest(folder, tmp_path / "out", stills=True)
    (folder / "videos.csv").write_text("video,case_id\na.jpg,one\nb.jpg,one\n")
    monkeypatch.setattr(packing.Pack, "run", lambda self: pytest.fail("decoded again"))
    ingest(folder, tmp_path / "out", stills=True)
    assert cases(Catalog.open(tmp_path / "out")) == ["one", "one"]


def test_pseudonyms_hide_names_and_cases_of_stills(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "Meier/lesion.jpg")
    (folder / "Meier" / "bad.jpg").write_text("Meier, born 1950")
    _, said = ingest(folder, tmp_path / "out", stills=True, source="x", pseudonymize=tmp_path / "key")
    (row,) = Catalog.open(tmp_path / "out").videos.to_pylist()
    assert row["name"].startswith("v")
    assert row["case_id"].startswith("c")
    content = b"".join(tree(tmp_path / "out").values()) + "\n".join(said).encode()
    assert b"Meier" not in content
    assert b"lesion" not in content
    assert "lesion.jpg" in (tmp_path / "key.names.csv").read_text()


def test_masks_and_content_box_are_each_picture_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wide = np.zeros((200, 300, 3), np.uint8)
    wide[:, 60:240] = (200, 90, 80)
    Image.fromarray(wide).save(folder / "a.png")
    Image.fromarray(np.full((120, 160, 3), 150, np.uint8)).save(folder / "b.png")
    (tmp_path / "masks.yaml").write_text("in: [[70, 0, 10, 200]]")
    settings = packing.IngestSettings(short_side=None)
    ingest(folder, tmp_path / "out", stills=True, settings=settings, masks=tmp_path / "masks.yaml")
    rows = Catalog.open(tmp_path / "out").videos.to_pylist()
    assert [(row["crop"], row["source_size"], row["masks"]) for row in rows] == [
        ([60, 0, 180, 200], [300, 200], [70, 0, 10, 200]),
        ([], [160, 120], [70, 0, 10, 200]),
    ]
    blackened = np.asarray(stored(Catalog.open(tmp_path / "out"), "a")[0][1])
    assert blackened.shape == (200, 180, 3)
    assert blackened[:, 11:19].max() < 40


def test_stills_of_two_cases_that_look_alike_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 17, 3), dtype=np.uint8))
        coarse.resize((170, 160), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    with Image.open(folder / "b.png") as image:
        image.save(folder / "copy of b.jpg", quality=50)
    summary, _ = ingest(folder, tmp_path / "out", stills=True)
    assert summary.alike is not None
    assert summary.alike.startswith("2 of 5 stills look like a still of another case (at most 24 of the 256 bits")
    assert "such as b and copy_of_b." in summary.alike
    (folder / "videos.csv").write_text("video,case_id\nb.png,one\ncopy of b.jpg,one\n")
    assert ingest(folder, tmp_path / "out", stills=True)[0].alike is None


def test_an_excluded_still_stays_out_and_a_review_can_be_given_back(tmp_path: Path) -> None:
    folder = make(tmp_path / "in", "a.jpg", "b.jpg")
    Image.fromarray(np.full((32, 96, 3), (20, 60, 220), np.uint8)).save(folder / "menu.png")
    ingest(folder, tmp_path / "out", stills=True)
    write_review(Catalog.open(tmp_path / "out"), tmp_path / "review.csv")
    lines = (tmp_path / "review.csv").read_text().splitlines()
    assert lines[0].startswith("video,start,end")
    assert [line for line in lines if line.startswith("menu")] == ["menu,0,,1.000,out"]
    (tmp_path / "exclude.csv").write_text("video,start,end\nmenu,0,\n")
    _, said = ingest(folder, tmp_path / "out", stills=True, exclude=tmp_path / "exclude.csv")
    assert list(numbers(Catalog.open(tmp_path / "out"))) == ["a", "b"]
    assert "1 still excluded" in said


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Source `in`: 12 stills of 6 patients. Source `clips`: a video of 40 frames."""
    root = tmp_path_factory.mktemp("mixed")
    ingest(many(root / "in"), root / "out", stills=True, case_regex=r"(?P<case>[^/]+)/.*")
    (root / "clips").mkdir()
    make_clip(root / "clips" / "a.mp4", constant(1, 40), gop=5)
    ingest(root / "clips", root / "out")
    return Catalog.open(root / "out")


def test_stills_weigh_by_frames_in_a_mixture(mixed: Catalog) -> None:
    selection = Composition(curate="none", weights="sqrt").resolve(mixed)
    assert dict(selection.source_rows) == {"clips": 40, "in": 12}
    shares = {pool.name: pool.share for pool in selection.pools}
    assert shares["in"] / shares["clips"] == pytest.approx((12 / 40) ** 0.5)
    everything = Composition(curate="none").resolve(mixed)
    assert [(pool.name, len(pool)) for pool in everything.pools] == [("all", 52)]


def test_stills_are_sampled_by_cases_and_frames_and_not_by_hours(mixed: Catalog) -> None:
    stills = {"curate": "none", "include": [{"source": ["in"]}]}
    chosen = Composition.model_validate({**stills, "sample": Amount(cases=2)}).resolve(mixed)
    assert (len(chosen), len(chosen.cases)) == (4, 2)
    assert len(Composition.model_validate({**stills, "sample": Amount(frames=7)}).resolve(mixed)) == 7
    for hours in (0.001, 1000):
        with pytest.raises(
            ConfigError, match=r"12 isolated pictures \(stills, of source in\).*sample by frames or cases"
        ):
            Composition.model_validate({**stills, "sample": Amount(hours=hours)}).resolve(mixed)
    apart = Composition(curate="none", exclude=[{"source": ["in"]}], sample=Amount(hours=30 / 3600)).resolve(mixed)
    assert len(apart) == 40


def test_thinning_by_time_leaves_stills_alone(mixed: Catalog) -> None:
    selection = Composition(curate="none", fps=0.1).resolve(mixed)
    assert dict(selection.source_rows) == {"clips": 4, "in": 12}


def test_stills_have_no_neighbours(mixed: Catalog) -> None:
    with pytest.raises(ConfigError, match=r"neighbours: 12 of the 13 selected videos are isolated pictures \(stills\)"):
        resolve_neighbours(NeighbourSource(), mixed, Composition(curate="none").resolve(mixed), 0)
    videos = Composition(curate="none", exclude=[{"source": ["in"]}]).resolve(mixed)
    rule = resolve_neighbours(NeighbourSource(), mixed, videos, 0)
    assert rule is not None
    still = int(np.flatnonzero(mixed.is_still[mixed.frames["video"]])[0])
    assert rule.candidates(still) == []
