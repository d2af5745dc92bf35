"""An evaluation on data that is marked private: what of it leaves has no picture, hospital or case of it."""

from __future__ import annotations

import contextlib
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_factory import make_catalog
from mask_factory import make_mask_folder
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.readers.videos import locate
from trocar.errors import ConfigError
from trocar.privacy.aliases import withheld, withhold
from trocar.privacy.private_data import Marks, marks_in, private_of, private_of_runs

SECRET = ("Inselspital", "case-0815", "case-0817", "op-a", "op-c")
MAGENTA = (250, 0, 250)
MARKS = "cases: [case-0815, op-c]\nnames: [Inselspital]\n"


def make_private_folder(root: Path) -> Path:
    """Three cases, of which the first and the last are magenta and marked private: one by its id, one by its video."""
    data = make_mask_folder(root / "labels_Inselspital")
    table = pd.read_csv(data / "frames.csv")
    table["video"] = table["case"].map({f"case{i}": f"op-{name}" for i, name in enumerate("abc")})
    table["case"] = table["case"].map({f"case{i}": f"case-08{15 + i}" for i in range(3)})
    table.to_csv(data / "frames.csv", index=False)
    for path in table["path"][table["case"] != "case-0816"]:
        size = Image.open(data / path).size
        Image.new("RGB", size, MAGENTA).save(data / path)
    (data / "private.yaml").write_text(MARKS)
    return data


def magenta(path: Path) -> int:
    """How many pixels are nearer to magenta than any tint of another frame can be."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - MAGENTA).max(axis=2) < 40).sum())


class Told:
    """What an evaluation printed, and the words in its figures."""

    def __init__(self, root: Path, printed: str, drawn: list[str]) -> None:
        self.out, self.printed, self.drawn = root / "out_Inselspital", printed, "\n".join(drawn)


def evaluated(root: Path, *more: str) -> Iterator[Told]:
    drawn: list[str] = []
    save = Figure.savefig

    def watched(figure: Figure, *args: Any, **settings: Any) -> Any:
        drawn.extend(str(text.get_text()) for text in figure.findobj(Text))
        return save(figure, *args, **settings)

    data = make_private_folder(root)
    segmentation = '{"name": "segmentation", "epochs": 1, "batch": 4, "decoder": "linear"}'
    words = ["--data", str(data), "--task", "phase", "--task", "segmentation", "--size", "32", "--seeds", "1"]
    words += ["--backbone", "on_Inselspital=random:test_resnet", "--out", str(root / "out_Inselspital")]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(Figure, "savefig", watched)
        assert main(["evaluate", *words, f"protocol=[knn, {segmentation}]", "baselines=[]", "bootstrap=0", *more]) == 0
    yield Told(root, said.getvalue(), drawn)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    yield from evaluated(tmp_path_factory.mktemp("private"))


def test_what_an_evaluation_prints_and_its_tables_name_nobody(told: Told) -> None:
    assert "12 frames of 3 cases" in told.printed
    assert "withheld-" in told.printed
    for text in (told.printed, (told.out / "results.md").read_text()):
        assert [name for name in SECRET if name in text] == []


def test_figures_call_private_cases_by_number_and_others_by_name(told: Told) -> None:
    assert "private case 1" in told.drawn
    assert "private case 2" in told.drawn
    assert "case-0816" in told.drawn
    assert [name for name in SECRET if name in told.drawn] == []
    assert [path.name for path in (told.out / "figures").iterdir() if "Inselspital" in path.name] == []


def test_overlays_show_no_frame_of_a_private_case(told: Told) -> None:
    (overlay,) = (told.out / "figures").glob("*overlays.png")
    assert magenta(overlay) == 0


def test_predictions_and_results_stay_whole_in_the_folder_of_the_evaluation(told: Told) -> None:
    assert set(pd.read_parquet(told.out / "predictions.parquet")["case"]) == {"case-0815", "case-0816", "case-0817"}
    assert "case-0815" in (told.out / "results.json").read_text()
    assert withheld(told.out).names == sorted(SECRET)
    assert stat.S_IMODE((told.out / "private.json").stat().st_mode) == 0o600


def test_a_report_with_this_evaluation_names_nobody(told: Told, tmp_path: Path) -> None:
    from trocar.report.gather_run import gather
    from trocar.report.run_report import render
    from trocar.runs.run_folder import Run

    with Run.open(tmp_path / "run", {"run": {"seed": 1}}):
        pass
    page = render(gather(tmp_path / "run", told.out / "results.json"))
    assert "on_withheld-" in page
    assert [name for name in SECRET if name in page] == []


def test_sharing_shows_names_and_frames(tmp_path: Path) -> None:
    (told,) = evaluated(tmp_path, "privacy.share_frames=true")
    (overlay,) = (told.out / "figures").glob("*overlays.png")
    assert magenta(overlay) > 100
    assert "case-0815" in told.drawn
    assert not (told.out / "private.json").exists()


def test_marks_of_the_folder_and_of_the_configuration_add_up(tmp_path: Path) -> None:
    data = open_dataset(make_private_folder(tmp_path))
    found = private_of(data, Marks(cases=("case-0816",), names=("Dr. Doe",)))
    cases = {"case-0815", "case-0816", "case-0817"}
    assert found.cases == cases | {"op-c"}  # a marked video stays marked by its own name too
    assert found.names == {*SECRET, "case-0816", "op-b", "Dr. Doe"}
    (data.root / "private.yaml").unlink()
    assert private_of(data, Marks(cases="all")).cases == cases
    assert not private_of(data).cases


def test_videos_that_the_catalog_of_the_shards_marks_are_private(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", 2, 4, private=["case01"])
    data = make_private_folder(tmp_path)
    (data / "private.yaml").unlink()
    table = pd.read_csv(data / "frames.csv")
    table = table[table["video"] != "op-c"].replace({"video": {"op-a": "video00", "op-b": "video01"}})
    table.to_csv(data / "frames.csv", index=False)
    found = private_of(locate(open_dataset(data), tmp_path / "shards"), catalog=Catalog.open(tmp_path / "shards"))
    assert found.cases == {"case-0816"}
    assert found.names == {"case-0816", "video01", "case01", "south"}


def test_names_that_a_backbone_was_trained_on_are_withheld_too(tmp_path: Path) -> None:
    (tmp_path / "run" / "backbone").mkdir(parents=True)
    withhold(tmp_path / "run", ["Inselspital"])
    assert private_of_runs([str(tmp_path / "run" / "backbone"), "resnet50"]).names == {"Inselspital"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cases: [case-0851]", "no case or video 'case-0851'.*did you mean 'case-08"),
        ("", "expected `cases: all`"),
        ("cases: []", "marks nothing"),
        ("case: [case-0815]", "case"),
        ("cases: [", "not valid YAML"),
        ("cases: !!python/object:os.system []", "not valid YAML"),
    ],
)
def test_a_mark_that_is_not_understood_stops_the_evaluation(tmp_path: Path, text: str, says: str) -> None:
    data = open_dataset(make_private_folder(tmp_path))
    (data.root / "private.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        private_of(data)
    (data.root / "private.yaml").unlink()
    assert marks_in(data.root) == Marks()
    assert json.loads(Marks().model_dump_json()) == {"cases": [], "names": []}
