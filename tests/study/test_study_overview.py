import json

import pytest
from lock_factory import study_lock
from study_factory import launch, make_stages, named

from trocar.core.progress import duration
from trocar.study.overview import costs, status_of
from trocar.study.stage_executors import LocalExecutor, run_stages
from trocar.study.stages import Store


@pytest.fixture
def half_done(tmp_path):
    """A study of which stage a failed and what b leads to is done."""
    broken = tmp_path / "broken"
    broken.touch()
    store, stages = Store(tmp_path / "store"), make_stages(fails={"a": broken})
    run_stages(LocalExecutor(store, 2, launch=launch, keep="full"), stages)
    return store, stages


def test_the_status_counts_and_shows_why_a_stage_failed(half_done):
    store, stages = half_done
    status = status_of(study_lock(stages), store)
    assert status.kinds["pretrain"] == {"failed": 1, "done": 1}
    assert status.kinds["evaluate"] == {"blocked": 2, "done": 2}
    assert status.states[named(stages, "report")] == "blocked"
    (failing,) = status.failing
    assert (failing.label, failing.code, failing.lines[-1]) == ("a", 3, "it is broken")
    lines = list(status.lines())
    assert lines[0] == "pretrain     2 stages: 1 done, 1 failed"
    assert "    it is broken" in lines


def test_time_left_is_what_alike_stages_took(half_done):
    store, stages = half_done
    times = {}
    for kind, done in (("pretrain", "b"), ("evaluate", "b on x"), ("evaluate", "b on y")):
        path = store.folder(named(stages, done)) / "done.json"
        tree = json.loads(path.read_text()) | {"seconds": 3600, "bytes": 10}
        path.write_text(json.dumps(tree))
        times[kind] = 3600
    pretrain, evaluate, report = costs(study_lock(stages), store)
    assert (pretrain.stages, pretrain.hours, pretrain.bytes, pretrain.basis) == (1, 1.0, 10.0, "measured")
    assert (evaluate.stages, evaluate.hours, evaluate.bytes) == (2, 2.0, 20.0)
    assert report.hours is None
    assert status_of(study_lock(stages), store).hours == 3.0


def test_without_a_measurement_stated_speeds_count_and_else_it_is_unknown(tmp_path):
    stages, store = make_stages(), Store(tmp_path)
    unknown = status_of(study_lock(stages), store)
    assert unknown.hours is None
    assert "no speed is stated" in unknown.left
    stated = costs(study_lock(stages, study={"speed": {"images_per_s": 1 / 3600, "evaluate_min": 30}}), store)
    assert [(cost.hours, cost.basis) for cost in stated[:2]] == [(2.0, "stated"), (2.0, "stated")]


def test_hours_are_said_as_people_say_them():
    assert [duration(hours) for hours in (0.5, 1.99, 2.0, 100)] == ["30 min", "119 min", "2.0 h", "100.0 h"]
