"""On a real SLURM: a job trains by the method of an installed plugin, and knows whether that was edited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from plugin_session import PRETRAIN, install
from slurm_factory import until_state, write_profile

from trocar.slurm.job_states import Submission, submitted_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_job_trains_by_a_plugins_method_and_none_goes_on_after_an_edit_of_it(shards: Path, tmp_path: Path) -> None:
    package, out = install(tmp_path), tmp_path / "run"
    data = {"catalog": str(shards), "composition": {"curate": "none"}}
    tree = {**PRETRAIN, "data": data, "run": PRETRAIN["run"] | {"out": str(out)}, "train": {"batch": 4, "steps": 2}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    words = [sys.executable, "-m", "trocar", "pretrain", "run.yaml", "--slurm", write_profile(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "site")}

    def submit() -> Submission:
        subprocess.run(words, cwd=tmp_path, env=env, check=True, capture_output=True)
        return submitted_for(out)[-1]

    until_state(submit().job, "COMPLETED")
    plugins = json.loads((out / "finished.json").read_text(encoding="utf-8"))["identity"]["recipe"]["plugins"]
    assert (plugins["trocar_plugin"]["distribution"], plugins["trocar_plugin"]["version"]) == ("trocar-plugin", "0.1.0")

    with (package / "barlow_twins.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    again = submit()
    until_state(again.job, "FAILED")
    assert "recipe.plugins.trocar_plugin.source: '" in again.log().read_text(encoding="utf-8")
