"""What is private has other names where it is shown, and nothing else: the same verdicts, fingerprints and stages."""

import json

import pandas as pd
import pytest
from leak_factory import make_labelled, make_pool, operation, resolve
from study_factory import make_study

from trocar.data.catalog.catalog import Catalog
from trocar.data.labelled_data import LabelledFolder, LeakConfig
from trocar.data.selection.composition import Composition
from trocar.downstream.datasets import open_dataset
from trocar.leakage.guard import RunGuard, guarding_of
from trocar.leakage.held_out_sources import held_out
from trocar.leakage.judge import Judge
from trocar.privacy.private_data import Marks
from trocar.ssl.pool_guard import TrainingData
from trocar.study.config import load_study
from trocar.study.study_plan import make_plan


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def found(root, private):
    """Everything that the leak room says of a pool with a copy of a held-out case."""
    data, pool = root / "clinic", root / "pool"
    guarded = LabelledFolder(data=data, private=private)
    composition = Composition(curate="none", leak=LeakConfig(against=[guarded], policy="allow"))
    catalog = Catalog.open(pool)
    selection = resolve(composition, catalog)
    guard = RunGuard()
    seen = guard.exposure(TrainingData(root / "run", composition, catalog, selection, "random:test_resnet"))
    return {
        "selection": selection.fingerprint,
        "notes": selection.notes,
        "leaks": guarding_of(selection).records(),
        "held out": sorted(held_out([guarded]).digests().items()),
        "exposure": seen.as_json(),
        "verdict": [finding.as_json() for finding in Judge(open_dataset(data), ["one", "two"]).of_exposure(seen)],
    }


def test_leaks_verdicts_and_fingerprints_are_the_same_with_and_without_marks(tmp_path):
    make_labelled(tmp_path / "clinic", {"one": operation(0), "two": operation(1)})
    make_pool(tmp_path / "pool", {f"v{i}": ("north", f"op{i}", operation(i)) for i in range(1, 4)})
    plain = found(tmp_path, Marks())
    assert [leak["test"] for leak in plain["leaks"]] == ["clinic/two"]
    (tmp_path / "clinic" / "private.yaml").write_text("cases: [two]\nnames: [clinic, north]\n")
    assert json.dumps(found(tmp_path, Marks(cases="all")), default=str) == json.dumps(plain, default=str)


def test_a_study_has_the_same_stages_with_and_without_marks(tmp_path):
    def planned(**private):
        task = {"data": str(tmp_path / "labels"), "protocol": ["knn"], "folds": 2, **private}
        return make_plan(load_study(make_study(tmp_path, tasks={"phase": task})))

    plain = planned()
    cases = pd.read_csv(tmp_path / "labels" / "frames.csv")["case"].unique().tolist()
    (tmp_path / "labels" / "private.yaml").write_text(f"cases: [{cases[0]}]\nnames: [north]\n")
    marked = planned(private={"cases": cases[1:]})
    assert list(marked.stages) == list(plain.stages)
    assert [run.asked for run in marked.runs] == [run.asked for run in plain.runs]
    assert [task.data.fingerprint for task in marked.tasks] == [task.data.fingerprint for task in plain.tasks]
