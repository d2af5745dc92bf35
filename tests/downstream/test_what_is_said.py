"""What the commands of evaluation say to somebody who is new: short, and about the data at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from downstream_factory import make_cholec80, make_folder
from PIL import Image

from trocar.cli.main import main
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import CHOLEC80_PHASES, DatasetOptions
from trocar.downstream.datasets.cholect50 import INSTRUMENT, PHASE
from trocar.downstream.datasets.triplets import TOOLS, TRIPLETS
from trocar.downstream.evaluation.experiment import make_experiment
from trocar.downstream.evaluation.results import few
from trocar.downstream.evaluation.run_files import about_task
from trocar.downstream.tasks import get_task


def make_cholect50(root: Path, videos: tuple[int, ...] = (1, 2, 6, 51)) -> Path:
    """Two frames of each video with one triplet: 1 and 2 train in RDV's split, 6 and 51 are two of its ten test
    videos.
    """
    categories = {
        "instrument": dict(enumerate(TOOLS)),
        "phase": dict(enumerate(CHOLEC80_PHASES)),
        "triplet": dict(enumerate(TRIPLETS)),
    }
    (root / "labels").mkdir(parents=True)
    for video in videos:
        entry = np.full(15, -1).tolist()
        entry[0], entry[INSTRUMENT], entry[PHASE] = 3, 0, 0
        tree = {"fps": 1, "categories": categories, "annotations": {"0": [entry], "1": [entry]}}
        (root / "labels" / f"VID{video:02d}.json").write_text(json.dumps(tree))
        (root / "videos" / f"VID{video:02d}").mkdir(parents=True)
        for frame in range(2):
            Image.new("RGB", (32, 24)).save(root / "videos" / f"VID{video:02d}" / f"{frame:06d}.png")
    return root


def test_many_classes_and_split_lists_are_summed_up_unless_all_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_cholect50(tmp_path)
    assert main(["inspect", str(root)]) == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) < 80
    assert "and 88 more classes of at most 0 frames, 88 of them in no frame; --all lists every class" in short
    assert TRIPLETS[3] in short
    assert "classes of the other 6 split lists: --all" in short
    assert main(["inspect", str(root), "--all"]) == 0
    whole = capsys.readouterr().out
    assert all(name in whole for name in TRIPLETS)
    assert "triplet, frames per class, split crossval-5" in whole
    assert "--all" not in whole


def test_all_goes_with_labelled_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text("{}")
    (tmp_path / "backbone" / "model.safetensors").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "backbone"), "--all"]) == 2
    assert "--all goes with a labelled data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("split", "said"),
    [("rdv", "incomplete (2 of 10 official test videos)"), (None, "incomplete (8 of 100,863 official frames)")],
)
def test_a_test_on_some_videos_of_a_published_list_is_incomplete(tmp_path: Path, split: str | None, said: str) -> None:
    data = open_dataset(make_cholect50(tmp_path), None, DatasetOptions(split=split))
    bench = make_experiment("tools", data)
    assert about_task(bench, get_task("tools"))["incomplete"] == said
    listed = "split rdv: 8 of 10 test videos are not here: 10, 73, 14, 74, 32 and 3 more"
    assert (listed in data.notes) == (split is not None)


def test_all_videos_of_a_published_list_are_complete(tmp_path: Path) -> None:
    videos = (1, 2, 6, 51, 10, 73, 14, 74, 32, 80, 42, 111)
    data = open_dataset(make_cholect50(tmp_path, videos), None, DatasetOptions(split="rdv"))
    bench = make_experiment("tools", data)
    assert about_task(bench, get_task("tools"))["incomplete"] is None


def test_of_many_absent_classes_the_number_and_the_first_are_told() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([f"c{i}" for i in range(54)]) == "54 classes (c0, c1, c2, ...)"


@pytest.mark.parametrize(("other", "seen"), [(True, "it looks like folder"), (False, "no layout that is known")])
def test_a_number_is_not_measured_on_another_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: bool, seen: str
) -> None:
    data = make_folder(tmp_path / "data", cases=1, frames=1) if other else tmp_path
    words = ["--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["reproduce", "cholec80_tecno_resnet50", *words]) == 2
    said = capsys.readouterr().err
    assert seen in said
    assert "needed is cholec80: " in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_would_be_evaluated_beside_the_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_cholec80(tmp_path / "data")
    words = ["--data", str(data), "--task", "phase", "--task", "tools", "--backbone", "mine=random:test_resnet"]
    words += ["--protocol", "knn", "--out", str(tmp_path / "out"), "--slurm", "local", "--dry-run"]
    assert main(["evaluate", *words]) == 0
    found = capsys.readouterr()
    assert "cholec80: 12 frames of 3 cases" in found.err
    assert "phase: 12 test frames of 3 cases, leave-one-case-out\n  mine, 3 seeds: knn" in found.err
    assert "  majority: prior" in found.err
    assert "submitit" in found.out
    assert list((tmp_path / "out").rglob("*.json")) == []
