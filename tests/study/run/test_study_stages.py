from trocar.study.run import stages
from trocar.study.run.stages import Stage


def stage(**changes):
    return Stage(**{"kind": "evaluate", "inputs": {"task": "phase"}, "config": {"data": "/here"}, **changes})


def test_equal_inputs_have_equal_names_wherever_they_lie():
    assert stage().name == stage(config={"data": "/there"}, like="b", work=3.0).name
    assert stage().name.startswith("evaluate-")


def test_whatever_determines_the_result_is_in_the_name():
    names = {stage().name, stage(inputs={"task": "tools"}).name, stage(parents=("pretrain-1",)).name}
    names |= {stage(kind="report").name, stage(version=stage().version + 1).name}
    assert len(names) == 5


def test_results_of_versions_before_this_one_are_not_used():
    for kind, old in (("pretrain", 1), ("evaluate", 1), ("report", 1)):
        assert stage(kind=kind, version=old).name != stage(kind=kind).name


def test_a_raised_version_renames_the_stages_of_its_kind_alone(monkeypatch):
    before = stage().name, stage(kind="pretrain").name
    raised = stages.STAGE_VERSION["evaluate"] + 1
    monkeypatch.setattr(stages, "STAGE_VERSION", {**stages.STAGE_VERSION, "evaluate": raised})
    assert stage().name != before[0]
    assert stage(kind="pretrain").name == before[1]


def test_a_stage_is_read_back_as_it_was_written():
    one = stage(parents=("pretrain-1",), parent_backbone="pretrain-1", like="alike", work=2.0)
    assert Stage.from_json(one.to_json()) == one
    assert Stage.from_json(one.to_json()).name == one.name
