"""Frames that nobody has looked at are listed, and neither shown nor, on request, trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_factory import make_catalog
from ingest_clips import constant, make_clip
from PIL import Image
from private_factory import ingest

from trocar.cli.main import main
from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD, REVIEW_THRESHOLD, Catalog
from trocar.data.catalog.inspection import write_review
from trocar.data.selection.composition import Composition


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
    from trocar.report.gather_run import gather

    catalog = doubtful_catalog(tmp_path / "shards", SCORES)
    run = tmp_path / "run"
    run.mkdir()
    from trocar.runs.run_folder import Run

    with Run.open(run, {"data": {"catalog": str(catalog.root), "composition": {"curate": "none"}}}):
        pass
    inputs = gather(run)
    assert inputs.frames is not None
    assert inputs.frames.captions == ["case00 0:00", "case00 0:00"]
