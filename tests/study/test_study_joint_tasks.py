"""Tasks that are learned together, as EndoNet does it, each compared on its own."""

from __future__ import annotations

import pytest
from study_factory import make_study

from trocar.cli.main import main
from trocar.errors import ConfigError
from trocar.report.study_arms import arms_of, starts_at_random
from trocar.study.config import load_study
from trocar.study.results import StudyResults
from trocar.study.stage_execution import run_stage
from trocar.study.stages import Store
from trocar.study.study_lock import write_lock
from trocar.study.study_plan import make_lock, make_plan

FINETUNE = {"name": "finetune", "epochs": 1, "batch": 8, "warmup": 0, "augment": None, "select": "fixed_epochs"}


def joint_study(root, **changes):
    task = {"data": str(root / "labels"), "task": "phase+tools", "protocol": [FINETUNE], "folds": 2, "size": 32}
    return load_study(make_study(root, tasks={"phase": task | changes, "tools": task | changes | {"score": "tools"}}))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return make_plan(joint_study(tmp_path_factory.mktemp("study")))


def test_tasks_that_are_learned_together_share_their_stages_and_are_compared_by_their_own_metrics(found):
    phase, tools = ([e for e in found.evaluations if e.task == task] for task in ("phase", "tools"))
    assert [e.stage.name for e in phase] == [e.stage.name for e in tools]
    assert {e.protocol for e in found.evaluations} == {"finetune, phase+tools"}
    tasks = make_lock(found).tasks
    assert {name: task.task for name, task in tasks.items()} == {"phase": "phase", "tools": "tools"}
    assert tasks["phase"].metric != tasks["tools"].metric


def test_a_protocol_that_cannot_learn_them_together_is_refused_by_the_plan(tmp_path):
    with pytest.raises(
        ConfigError, match=r"tasks\.phase: task 'phase\+tools' .* cannot be learned by linear; .*finetune"
    ):
        make_plan(joint_study(tmp_path, protocol=["linear"]))


@pytest.mark.slow
def test_both_have_scores_from_one_evaluation(found, capfd):
    store, lock = Store(found.study.store), make_lock(found)
    write_lock(store, lock)
    (stage,) = {e.stage.name: e.stage for e in found.evaluations if e.arm == "init"}.values()
    with capfd.disabled():
        assert run_stage(store.put(stage, 1, "full"), main) == 0
    results = StudyResults.load(found.study, store)
    scores = {score.task: score for score in results.scores}
    assert list(scores) == ["phase", "tools"]
    for task, score in scores.items():
        row = results.about(score)
        assert row["task"] == task
        assert results.value(score) == pytest.approx(row["metrics"][results.metric(task)]["values"][0])
        assert starts_at_random(results, score)
        assert [arm.name for arm in arms_of(results, [score])] == ["init"]
    assert set(store.done(stage.name).outputs) == {"predictions.parquet"}
