"""What is marked private stays where it is: no pixels, hospitals or case ids of it leave with a run or a catalog."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_factory import make_catalog
from hostile_media import off, saved, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_clips import constant, make_clip, picture, stored
from PIL import Image

from trocar.backbones.card import model_card
from trocar.cli import main
from trocar.data.catalog import OUT_OF_BODY_THRESHOLD, REVIEW_THRESHOLD, Catalog
from trocar.data.catalog_write import VideoEntry, write_catalog
from trocar.data.composition import Composition
from trocar.data.ingest.jpeg import is_canonical
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest
from trocar.data.ingest.settings import IngestSettings
from trocar.data.privacy import is_private, private_names
from trocar.data.quarantine import write_review
from trocar.errors import ConfigError, TrocarError
from trocar.privacy import Withheld, withheld, withhold

KEEP = IngestSettings(short_side=None, crop="none", fps=1)
NAMES = ("Inselspital", "St. Mary's Hospital", "case-0815", "20240131")


def ingest(folder: Path, out: Path, **options: Any) -> list[str]:
    said: list[str] = []
    options = {"settings": KEEP, **options}
    run_ingest(IngestOptions(sources=(folder,), out=out, **options), said.append, lambda *_: None)
    return said


def contents(folder: Path) -> bytes:
    """Every byte of every file below, and every file's name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in files)


# What a file says of itself


def test_exif_comments_and_thumbnails_never_reach_a_shard(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = "PATIENT Doe"
    exif[0x8825] = {1: "N", 2: (46.0, 56.0, 0.0)}
    plain = saved(scene(), subsampling="4:2:0", quality=90)
    soi, rest = plain[:2], plain[2:]

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body

    files = {
        "exif": saved(scene(), subsampling="4:2:0", exif=exif.tobytes()),
        "comment": saved(scene(), subsampling="4:2:0", comment=b"PATIENT Doe"),
        "tool and more": saved(scene(), subsampling="4:2:0", comment=b"Lavc60.3 PATIENT Doe"),
        "xmp": soi + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>PATIENT Doe</x>") + rest,
        "photoshop": soi + segment(0xED, b"Photoshop 3.0\0PATIENT Doe") + rest,
        "thumbnail": soi + segment(0xE0, b"JFXX\0\x13\x01\x01PATIENT Doe") + rest,
        "jfif thumbnail": soi + segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\3\1PATIENT D") + rest,
        "after the end": plain + b"PATIENT Doe\xff\xd9",
        "second picture": plain + b"PATIENT" + plain,
        "png text": saved(scene(), "PNG", pnginfo=_png_text()),
    }
    folder = tmp_path / "in" / "v"
    folder.mkdir(parents=True)
    for number, data in enumerate(files.values()):
        assert b"PATIENT" in data or list(files)[number] == "exif"
        assert not is_canonical(data), list(files)[number]
        (folder / f"{number}.jpg").write_bytes(data)
    ingest(tmp_path / "in", tmp_path / "out", frames="{number}.jpg", frames_fps=1.0, first_number=0)
    catalog = Catalog.open(tmp_path / "out")
    assert len(catalog) == len(files)
    assert b"PATIENT" not in contents(tmp_path / "out")
    assert all(off(image, scene()) < 4 for _, image in stored(catalog, "v"))


def _png_text() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "PATIENT Doe")
    return info


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_a_container_says_never_reaches_a_shard(tmp_path: Path, name: str) -> None:
    import av

    clip = make_clip(tmp_path / name, constant(25, 30))
    (tmp_path / "in").mkdir()
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in" / name), "w") as target:
        for key in ("title", "artist", "comment"):
            target.metadata[key] = "PATIENT Doe"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert b"PATIENT" in (tmp_path / "in" / name).read_bytes()
    ingest(tmp_path / "in", tmp_path / "out")
    assert len(Catalog.open(tmp_path / "out")) == 2
    assert b"PATIENT" not in contents(tmp_path / "out")


# Names in the catalog


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


# What leaves with a run


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text("abCÄ .-'7", min_size=2, max_size=9), min_size=1, max_size=4), st.text(max_size=9), st.booleans()
)
def test_no_name_survives_in_a_text_in_any_case(names: list[str], around: str, upper: bool) -> None:
    hidden = Withheld(names)
    for name in hidden.names:
        if name.isdecimal() and len(name) < 4:
            continue
        shown = hidden.text(f"{around} {name.upper() if upper and len(name.upper()) == len(name) else name}, {around}")
        assert f" {name}," not in shown
    assert hidden.tree({"a": names}) == {hidden.text("a"): [hidden.text(name) for name in names]}


def test_words_that_only_contain_a_name_and_bare_numbers_stay() -> None:
    hidden = Withheld(["north", "7", "St Mary"])
    assert hidden.text("northern lights, step 7") == "northern lights, step 7"
    assert hidden.text("7") != "7"
    assert hidden.text("/data/North_2020/st\n  mary.mp4").count("withheld-") == 2


def test_a_damaged_list_of_names_shows_nothing_rather_than_all(tmp_path: Path) -> None:
    withhold(tmp_path, NAMES)
    assert stat.S_IMODE((tmp_path / "private.json").stat().st_mode) == 0o600
    assert withheld(tmp_path).names == sorted(NAMES)
    (tmp_path / "private.json").write_text('{"names": ["Insel')
    with pytest.raises(TrocarError, match=r"private\.json is damaged"):
        withheld(tmp_path)
    assert not withhold(tmp_path, ())
    assert not withheld(tmp_path)


def private_catalog(root: Path, private: tuple[bool, ...]) -> Catalog:
    """One video of six frames per entry of `private`, of a hospital and a case of its own."""
    import shutil

    made = make_catalog(root / "plain", len(private), 6)
    shutil.move(root / "plain" / "shards", root / "shards")
    quality = made.quality(list(made_columns()))
    entries = []
    shards = [row.name for row in made.shard_paths]
    for number, mark in enumerate(private):
        rows = slice(6 * number, 6 * number + 6)
        frames = {name: column[rows].copy() for name, column in made.frames.items()}
        frames["video"][:] = frames["shard"][:] = 0
        row = made.videos.slice(number, 1).to_pylist()[0]
        (shard,) = [name for name in shards if name.startswith(row["name"])]
        entries.append(_entry(root, row, shard, frames, {k: v[rows] for k, v in quality.items()}, number, mark))
    write_catalog(root, entries)
    return Catalog.open(root)


def made_columns() -> list[str]:
    from trocar.data.catalog import QUALITY_SCHEMA

    return list(QUALITY_SCHEMA.names)


def _entry(root, row, shard: str, frames, quality, number: int, mark: bool) -> VideoEntry:
    from trocar.data.catalog import FRAME_SCHEMA, QUALITY_SCHEMA
    from trocar.data.catalog_write import ShardFile
    from trocar.files import sha256_of

    path = root / "shards" / shard
    quality = {k: ([bytes(v) for v in c] if k == "dhash" else c) for k, c in quality.items()}
    return VideoEntry(
        name=row["name"],
        case_id=f"case-08{15 + number}",
        part=1,
        source="ours",
        hospital=f"Inselspital{number}" if mark else f"Openclinic{number}",
        fps=1.0,
        duration_s=6.0,
        content_hash=row["content_hash"],
        shards=[ShardFile(f"shards/{shard}", path.stat().st_size, sha256_of(path))],
        frames=pa.table(frames, schema=FRAME_SCHEMA),
        quality=pa.table(quality, schema=QUALITY_SCHEMA),
        private=mark,
    )


def test_private_are_the_videos_that_are_marked_and_no_others(tmp_path: Path) -> None:
    catalog = private_catalog(tmp_path, (True, False, True))
    assert private_names(catalog) == {
        *("Inselspital0", "case-0815", "video00"),
        *("Inselspital2", "case-0817", "video02"),
    }
    assert is_private(catalog, np.arange(18)).tolist() == [True] * 6 + [False] * 6 + [True] * 6


def run_folder(tmp_path: Path, catalog: Catalog, names: set[str], share: bool = False) -> Path:
    """A run folder as a pretraining leaves it, without its weights; what it selects is named by hospital and case."""
    from trocar.tracking.run import Run

    run = tmp_path / "runs" / "on_Inselspital0"
    run.mkdir(parents=True)
    withhold(run, names)
    config = {
        "data": {
            "catalog": str(catalog.root),
            "composition": {
                "curate": "none",
                "exclude": [{"hospital": ["Inselspital2"], "case": ["case-0817"]}],
                "include": [{"hospital": ["Inselspital0", "Openclinic1"]}],
            },
        },
        "privacy": {"share_frames": share},
        "run": {"seed": 1},
    }
    with Run.open(run, config) as record:
        record.log(0, {"loss": 1.0})
    return run


SECRET = ("Inselspital", "case-0815", "case-0817", "video00", "video02")


def test_the_report_shows_public_frames_only_and_no_private_name(tmp_path: Path) -> None:
    from trocar.report.gather import gather
    from trocar.report.page import render

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    inputs = gather(run, views={"g": np.zeros((1, 1, 8, 8, 3), np.uint8)})
    page = render(inputs)
    assert [name for name in SECRET if name in page] == []
    assert inputs.frames is not None
    assert all(caption.startswith("case-0816") for caption in inputs.frames.captions)
    assert inputs.views is None
    assert any("6 of the 12 selected frames are of private videos" in note for note in inputs.notes)
    assert "Openclinic1" in page


def test_a_mark_that_was_set_after_the_run_counts_too(tmp_path: Path) -> None:
    from trocar.report.gather import gather
    from trocar.report.page import render

    catalog = private_catalog(tmp_path / "shards", (True, True, True))
    run = run_folder(tmp_path, catalog, set())
    inputs = gather(run)
    assert inputs.frames is None
    assert [name for name in SECRET if name in render(inputs)] == []


@pytest.mark.parametrize("by_flag", [True, False])
def test_sharing_is_asked_for_and_then_said_on_the_page(tmp_path: Path, by_flag: bool) -> None:
    from trocar.report.gather import gather
    from trocar.report.page import render

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, set(), share=not by_flag)
    inputs = gather(run, share_frames=True if by_flag else None)
    assert inputs.frames is not None
    assert {caption.split()[0] for caption in inputs.frames.captions} == {"case-0815", "case-0816"}
    assert "frames of private videos" in render(inputs)


def test_mlflow_gets_no_private_name(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from trocar.tracking.mlflow_sync import sync

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    found = MlflowClient(uri).get_run(sync(run, uri).mlflow_run_id)
    text = json.dumps([found.data.params, found.data.tags, found.info.run_name])
    assert [name for name in SECRET if name in text] == []
    assert "Openclinic1" in found.data.params["data.composition.include"]
    database = (tmp_path / "mlflow.db").read_bytes()
    assert [name for name in SECRET if name.encode() in database] == []


def test_a_study_in_mlflow_has_no_private_name(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from trocar.study.track import _parent

    arm = "hospital=Inselspital0"
    cell = {"arm": arm, "seed": 0, "cases": ["ours/case-0815", "ours/case-0816"], "frames": 6, "steps": 1, "epochs": 1}
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    hidden = Withheld(private_names(private_catalog(tmp_path / "shards", (True, False, True))))
    run_id = _parent({"study": {"name": "s"}, "runs": [cell]}, tmp_path / "home", arm, uri, hidden)
    found = MlflowClient(uri).get_run(run_id)
    text = json.dumps([found.data.params, found.data.tags, found.info.run_name])
    assert [name for name in SECRET if name in text] == []
    assert "ours/case-0816" in text


def test_the_model_card_has_no_private_name(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = run_folder(tmp_path, catalog, private_names(catalog))
    (run / "backbone").mkdir()
    (run / "backbone" / "config.json").write_text('{"architecture": "resnet18"}')
    save_file({"w": torch.zeros(2)}, run / "backbone" / "model.safetensors")
    card = model_card(run, run / "backbone")
    assert [name for name in SECRET if name in card] == []
    assert "Openclinic1" in card


def test_a_pretraining_leaves_the_names_and_logs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = private_catalog(tmp_path / "shards", (True, False, True))
    run = tmp_path / "run_Inselspital0"
    places = [f"data.catalog={catalog.root}", f"run.out={run}", "tracking.uri=none"]
    small = ["train.steps=1", "train.batch=4", "run.workers=0", "data.composition.curate=none"]
    assert main(["pretrain", "demo", *places, *small, "data.composition.sample={frames: 9, per: [hospital]}"]) == 2
    refused = capsys.readouterr().err  # what the user typed does not fit: said with the names it is about
    assert "Inselspital0" in refused
    assert main(["pretrain", "demo", *places, *small, "data.composition.sample={frames: 6, per: [hospital]}"]) == 0
    output = "".join(capsys.readouterr())
    assert "run folder" in output
    assert [name for name in SECRET if name in output] == []
    assert withheld(run).names == sorted(private_names(catalog))


# Frames that nobody has looked at


def doubtful_catalog(root: Path, scores: list[float]) -> Catalog:
    import pyarrow.parquet as pq

    make_catalog(root, 1, len(scores), fps=2.0)
    path = root / "catalog" / "quality.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("out_of_body")
    pq.write_table(table.set_column(place, "out_of_body", pa.array(scores, pa.float32())), path)
    header = json.loads((root / "catalog" / "catalog.json").read_text())
    header["files"]["quality.parquet"] = path.stat().st_size
    (root / "catalog" / "catalog.json").write_text(json.dumps(header))
    return Catalog.open(root)


SCORES = [0.0, REVIEW_THRESHOLD - 0.01, REVIEW_THRESHOLD + 0.01, 0.3, OUT_OF_BODY_THRESHOLD, 1.0]


def test_doubtful_frames_are_listed_each_in_a_span_of_its_own(tmp_path: Path) -> None:
    catalog = doubtful_catalog(tmp_path / "shards", SCORES)
    rows, sheets = write_review(catalog, tmp_path / "review.csv")
    assert rows.tolist() == [2, 3, 4, 5]
    assert Image.open(sheets[0]).size[0] == 8 * 160
    listed = list(csv.DictReader((tmp_path / "review.csv").open()))
    assert [row["verdict"] for row in listed] == ["uncertain", "uncertain", "out", "out"]
    times = catalog.frames["time_s"]
    for row, line in zip(rows, listed, strict=True):
        inside = [k for k in range(len(catalog)) if float(line["start"]) <= times[k] < float(line["end"])]
        assert inside == [row]


def test_strict_curation_leaves_out_what_is_uncertain(tmp_path: Path) -> None:
    catalog = doubtful_catalog(tmp_path / "shards", SCORES)
    kept = {rule: len(Composition(curate=rule).resolve(catalog)) for rule in ("none", "default", "strict")}
    assert kept == {"none": 6, "default": 4, "strict": 2}


def test_what_is_left_of_the_list_is_what_the_next_ingest_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    blue, tissue = np.zeros((32, 96, 3), np.uint8), np.zeros((32, 96, 3), np.uint8)
    blue[...], tissue[...] = (30, 60, 200), (180, 70, 60)
    blue[::4], tissue[::4] = 90, (150, 40, 40)
    pictures = [tissue] * 25 + [blue] * 25 + [tissue] * 25
    make_clip(tmp_path / "in" / "a.mp4", constant(25, 75), pictures=pictures)
    ingest(tmp_path / "in", tmp_path / "out")
    review = tmp_path / "review.csv"
    assert main(["inspect", str(tmp_path / "out"), "--review", str(review)]) == 0
    assert "1 frames to review" in capsys.readouterr().out
    ingest(tmp_path / "in", tmp_path / "out", exclude=review)
    assert Catalog.open(tmp_path / "out").frames["time_s"].tolist() == [0.0, 2.0]


def test_the_report_shows_no_frame_that_nobody_has_looked_at(tmp_path: Path) -> None:
    from trocar.report.gather import gather

    catalog = doubtful_catalog(tmp_path / "shards", SCORES)
    run = tmp_path / "run"
    run.mkdir()
    from trocar.tracking.run import Run

    with Run.open(run, {"data": {"catalog": str(catalog.root), "composition": {"curate": "none"}}}):
        pass
    inputs = gather(run)
    assert inputs.frames is not None
    assert inputs.frames.captions == ["case00 0:00", "case00 0:00"]
