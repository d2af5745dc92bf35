"""A study on private cases: what of it leaves, as a page, tables or through mlflow, shows and names nobody."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from planted_study import FRAMES, Planted, plant

from trocar.leakage.exposure import Part
from trocar.privacy.aliases import withhold
from trocar.report.study_report import write
from trocar.study.results import StudyResults, private_of_study

CASES = tuple(f"op-0{number}" for number in range(1, 7))
PRIVATE = CASES[:3]
MAGENTA = (250, 0, 250)
MARKS = f"cases: [{', '.join(PRIVATE)}]\nnames: [Inselspital]\n"
SECRET = (*PRIVATE, "Inselspital", "case20")


def planted(root: Path, marks: str = MARKS, **settings: Any) -> tuple[Any, Any]:
    """Arms called after hospitals, a private case of the catalog among those they were trained on, and labelled cases
    of which half are private and magenta.
    """
    cases = {"from Inselspital": [["phantom/case20", "phantom/case21"]] * 2}
    leak = {
        "verdict": "test case seen unlabelled",
        "cases": ["labels/op-01"],
        "why": ["a run was trained on labels/op-01"],
    }
    wanted = Planted(
        {"from Inselspital": 0.8, "south": 0.6},
        tasks=("phase", "masks"),
        test_cases=CASES,
        seeds=2,
        cases_of=cases,
        private=["case20"],
        leak={"south": leak},
        left_out={"Inselspital alone": "the catalog has 3 of 20 cases of Inselspital"},
    )
    study, store = plant(root, replace(wanted, **settings))
    for place in range(len(PRIVATE)):
        for k in range(FRAMES):
            path = root / "labels" / f"{place}_{k}.png"
            Image.new("RGB", Image.open(path).size, MAGENTA).save(path)
    if marks:
        (root / "labels" / "private.yaml").write_text(marks)
    return study, store


def drawn_by(root: Path, study: Any, store: Any) -> tuple[str, str]:
    """The page, and the words in the figures that are embedded as pixels."""
    words: list[str] = []
    save = Figure.savefig

    def watched(figure: Figure, *args: Any, **settings: Any) -> Any:
        if settings.get("format") == "png":
            words.extend(str(text.get_text()) for text in figure.findobj(Text))
        return save(figure, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", watched)
        page = write(study, store, root / "report", draws=20).read_text()
    return page, "\n".join(words)


def magenta(page: str) -> int:
    """Pixels of the embedded pictures that are like the private frames."""
    found = 0
    for data in re.findall(r"data:image/\w+;base64,([\w+/=]+)", page):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
        found += int((np.abs(pixels - MAGENTA).max(axis=2) < 40).sum())
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any, str, str]:
    root = tmp_path_factory.mktemp("study") / "at_Inselspital"
    study, store = planted(root)
    return root, study, store, *drawn_by(root, study, store)


def test_the_page_has_no_private_name_in_text_or_figures(told: tuple[Path, Any, Any, str, str]) -> None:
    *_, page, words = told
    assert [name for name in SECRET if name in page] == []
    assert [name for name in SECRET if name in words] == []
    assert "private case 2" in words  # the first is a case of the catalog
    assert "op-04" in words
    assert "from withheld-" in page
    assert "south" in page


def test_the_page_has_no_pixel_of_a_private_frame(told: tuple[Path, Any, Any, str, str]) -> None:
    page = told[3]
    assert page.count("data:image/") > 10
    assert magenta(page) == 0


def test_the_tables_beside_the_page_name_nobody(told: tuple[Path, Any, Any, str, str]) -> None:
    folder = told[0] / "report"
    table = pd.read_parquet(folder / "results.parquet")
    assert set(table["arm"]) == {next(arm for arm in table["arm"] if arm.startswith("from withheld-")), "south", "init"}
    assert "Inselspital" not in (folder / "results.csv").read_text()


def test_sharing_shows_everything_and_says_so(tmp_path: Path) -> None:
    study, store = planted(tmp_path)
    study = study.model_copy(update={"privacy": study.privacy.model_copy(update={"share_frames": True})})
    page, words = drawn_by(tmp_path, study, store)
    assert "This page shows names and frames of private cases" in page
    assert "op-01" in words
    assert "from Inselspital" in page
    assert magenta(page) > 100


def test_what_an_evaluation_withheld_stays_withheld_when_the_data_is_gone(tmp_path: Path) -> None:
    study, store = planted(tmp_path, marks="", tasks=("phase",))
    lock = StudyResults.load(study, store).lock
    withhold(store.out(lock.evaluations[0].stage), ["op-01"])
    assert {"op-01", "case20"} <= private_of_study(lock, store).cases


def test_all_cases_are_private_where_the_mark_says_so(tmp_path: Path) -> None:
    study, store = planted(tmp_path, marks="cases: all", tasks=("phase",))
    found = private_of_study(StudyResults.load(study, store).lock, store)
    assert {*CASES, "train0"} <= found.cases


def test_mlflow_gets_scores_and_weights_but_no_private_name_and_no_predictions(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from trocar.study.stage_execution import record_scores
    from trocar.study.whole_study import sync_study

    study, store = planted(tmp_path, tasks=("phase",), seeds=1)
    lock = StudyResults.load(study, store).lock
    lock = lock.model_copy(update={"study": lock.study.model_copy(update={"name": "of Inselspital"})})
    (store.study("of Inselspital")).mkdir(parents=True)
    for stage, locked in lock.stages.items():
        record(store.out(stage), locked.kind, tmp_path, record_scores)
    uri, said = f"sqlite:///{tmp_path}/tracked/mlflow.db", []
    (tmp_path / "tracked").mkdir()
    assert sync_study(lock, store, said.append, uri), said
    client = MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    assert experiment.name.startswith("of withheld-")
    files = [path for path in (tmp_path / "tracked").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"mlflow.db", "results.json", "config.json", "model.safetensors"}
    for path in files:
        content = path.read_bytes()
        assert [name for name in SECRET if name.encode() in content] == [], path


def record(out: Path, kind: str, root: Path, record_scores: Any) -> None:
    """Make a planted stage the run folder that a real one is, with names where real ones have them."""
    from trocar.runs.run_folder import Run

    if kind == "evaluate":
        tree = json.loads((out / "results.json").read_text())
        tree["rows"][0]["metrics"] = {"f1": {"mean": 0.5}}
        tree["tasks"] = {"phase": {"folds": [{"name": "op-01", "test_cases": list(CASES)}]}}
        (out / "results.json").write_text(json.dumps(tree))
        record_scores(out, {"data": str(root / "labels_Inselspital"), "private": {"cases": ["op-01"]}})
        return
    with Run.open(out, {"data": {"composition": {"include": [{"hospital": ["Inselspital"]}]}}}) as run:
        run.log(0, {"loss": 1.0})
    config = out / "backbone" / "config.json"
    tree = json.loads(config.read_text())
    part = Part("pretraining", "on_Inselspital", cases=("ours/case20", "ours/case21"), catalog="/data/Inselspital")
    config.write_text(json.dumps({**tree, "trocar": {"exposure": [part.as_json()]}}))
