from trocar.study import stages
from trocar.study.stages import Stage, StageSpec


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
    for kind, current in stages.STAGE_VERSION.items():
        names = {stage(kind=kind, version=version).name for version in range(1, current + 1)}
        assert len(names) == current >= 2
        assert stage(kind=kind).name in names


def test_a_raised_version_renames_the_stages_of_its_kind_alone(monkeypatch):
    before = stage().name, stage(kind="pretrain").name
    raised = stages.STAGE_VERSION["evaluate"] + 1
    monkeypatch.setattr(stages, "STAGE_VERSION", {**stages.STAGE_VERSION, "evaluate": raised})
    assert stage().name != before[0]
    assert stage(kind="pretrain").name == before[1]


def test_a_stage_is_read_back_as_it_was_written():
    one = stage(parents=("pretrain-1",), parent_backbone="pretrain-1", like="alike", work=2.0)
    spec = StageSpec.model_validate_json(StageSpec.of(one, None, "full").model_dump_json())
    assert spec.stage == one
    assert spec.stage.name == spec.name == one.name


def test_names_stay_what_they_were_in_stores_that_exist():
    weights = {"backbone": {"kind": "timm", "name": "test_resnet"}}
    recipe = {"train": {"steps": 3, "batch": 4}}
    selection = {"selection": "0123456789abcdef", "backend": "torch", "neighbours": None}
    pretrain = Stage("pretrain", {"recipe": recipe, "weights": weights, **selection}, {}, version=2)
    assert pretrain.name == "pretrain-cdc75f65b7f45b18"
    inputs = {"task": ["phase"], "protocol": {"name": "knn", "k": 20}, "budget": None, "backbone": None}
    evaluate = Stage("evaluate", {**inputs, "data": "fedcba9876543210"}, {}, (pretrain.name,), pretrain.name, version=2)
    assert evaluate.name == "evaluate-badcc71a3310c4fc"
    place = ("north", 0, "phase", "knn", "100%", evaluate.name)
    inputs = {"study": "small", "places": [place], "contrasts": [("north", "init")]}
    assert Stage("report", inputs, {}, (evaluate.name,), version=2).name == "report-b7b1e75828724a53"
    # As it is written and read back, where tuples have become lists.
    spec = StageSpec.model_validate_json(StageSpec.of(evaluate, 1, "backbone").model_dump_json())
    assert spec.stage.name == evaluate.name
