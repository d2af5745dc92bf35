"""On a real SLURM: a study with one element that fails once ends like one of local processes."""

from __future__ import annotations

import pandas as pd
import pytest
from slurm_factory import until, write_profile
from study_factory import make_study, results, successes

from trocar.cli.main import main
from trocar.slurm.graph import Graph
from trocar.study.config import load_study
from trocar.study.stages import Store
from trocar.study.study_lock import require_lock

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def settled(store):
    def now():
        states = Graph.load(store.study("small")).states()
        return None if any(state.is_active for state in states.values()) else states

    return {name: state.state for name, state in until("all stages have ended", now, limit_s=400).items()}


def test_a_study_of_which_one_element_fails_once_ends_like_one_of_local_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(make_study(tmp_path))
    assert main(["study", "run", path, f"store={tmp_path / 'local'}", "--uri", "none"]) == 0

    assert main(["study", "plan", path]) == 0
    store = Store(load_study(path).store)
    lock = require_lock(store, "small")
    (broken,) = (run.stage for run in lock.runs if run.arm == "south")
    obstacle = store.out(broken)  # a file where the pretraining has to make its folder
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    words = ["study", "run", path, "--slurm", write_profile(tmp_path), "--uri", "none"]
    assert main(words) == 0
    ended = settled(store)
    behind = {name for name, stage in lock.stages.items() if broken in stage.parents} | {lock.report}
    assert {name for name, state in ended.items() if state == "FAILED"} == {broken}
    assert {name for name, state in ended.items() if state == "CANCELLED"} == behind
    well = set(lock.stages) - behind - {broken}
    assert {name for name in lock.stages if store.is_done(name)} == well
    capsys.readouterr()
    assert main(["study", "status", path]) == 0
    assert f"FAILED {broken} (south, seed 0)" in capsys.readouterr().out

    obstacle.unlink()
    assert main(words) == 0
    assert f"{len(behind) + 1} stages" in capsys.readouterr().out  # and what was done is not submitted again
    assert set(settled(store).values()) == {"COMPLETED"}

    local, names = Store(tmp_path / "local"), list(lock.stages)
    assert list(require_lock(local, "small").stages) == names
    assert results(store, names) == results(local, names)  # checksums of weights, predictions and the table
    tables = [pd.read_csv(s.out(lock.report) / "results.csv") for s in (store, local)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert len(tables[0]) == 3
    for evaluation in lock.evaluations:
        one, other = (s.out(evaluation.stage) / "predictions.parquet" for s in (store, local))
        assert one.read_bytes() == other.read_bytes()
    assert [successes(store, name) for name in names] == [1] * len(names)
