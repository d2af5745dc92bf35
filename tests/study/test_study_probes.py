"""Probes of a study's pretrainings: cases that they are scored on leave the pools of those runs, in the plan too."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from probe_factory import make_probed
from study_factory import make_study

from trocar.leakage.guard import RunGuard
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.study.config import load_study
from trocar.study.study_plan import make_plan

ALL = ["arms.north.sample={}", "arms.south.sample={}"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight cases in the pool, even ones of the north; of those probed, 0 to 8, 1, 4 and 7 are for validation."""
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    make_probed(folder / "probed" / "phantom", frames=2)
    table = pd.read_csv(folder / "probed" / "phantom" / "frames.csv")
    table["case"] = table["case"].str.replace("case", "case0")
    table.to_csv(folder / "probed" / "phantom" / "frames.csv", index=False)
    return folder


def probing(root, **changes):
    probe = {"name": "tools", "data": str(root / "probed" / "phantom"), "task": "tools", "protocol": "knn", **changes}
    return f"probe={json.dumps([probe])}"


def planned(root, *overrides):
    return make_plan(load_study(make_study(root), [*ALL, *overrides]))


def cases(found):
    return {run.arm: [case.removeprefix("phantom/case") for case in run.cases] for run in found.runs}


def test_scored_cases_of_a_probe_leave_the_pools_of_all_arms_and_its_training_and_test_cases_stay(root):
    assert cases(planned(root)) == {"north": ["00", "02", "04", "06"], "south": ["01", "03", "05", "07"]}
    found = planned(root, f"pretrain.set={json.dumps([probing(root)])}")
    assert cases(found) == {"north": ["00", "02", "06"], "south": ["03", "05"]}
    assert [run.frames for run in found.runs] == [18, 12]
    assert {leak.test for run in found.runs for leak in run.leaks} == {f"phantom/case0{n}" for n in (1, 4, 7)}


def test_a_probe_of_one_arm_takes_nothing_from_another(root):
    plain, found = planned(root), planned(root, f"arms.north.set={json.dumps([probing(root)])}")
    assert cases(found) == {"north": ["00", "02", "06"], "south": ["01", "03", "05", "07"]}
    assert [run.stage for run in found.runs if run.arm == "south"] == [plain.runs[1].stage]
    assert found.runs[0].stage != plain.runs[0].stage


def test_a_run_has_the_selection_that_its_plan_says(root, tmp_path):
    found = planned(root, f"pretrain.set={json.dumps([probing(root)])}")
    for run in found.runs:
        tree = found.stages[run.stage].config
        config = PretrainConfig.model_validate({**tree, "run": {**tree["run"], "out": str(tmp_path / run.arm)}})
        setup = Pretraining(config, World(), lambda line: None, RunGuard(probed=config.probe, chooser=config.chooser))
        assert setup.selection.fingerprint == run.selection
        assert setup.selection.cases == run.cases
