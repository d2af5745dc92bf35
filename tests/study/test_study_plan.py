import pandas as pd
import pytest
from data_factory import make_catalog
from downstream_factory import make_folder
from study_factory import make_study

from trocar.errors import ConfigError
from trocar.study import stages
from trocar.study.config import load_study
from trocar.study.overview import plan_tables
from trocar.study.stages import Store
from trocar.study.study_lock import drift, edits, read_lock, write_lock
from trocar.study.study_plan import make_lock, make_plan


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    return folder


def plan(root, *overrides, **changes):
    return make_plan(load_study(make_study(root, **changes), overrides))


def names(planned, kind=None):
    return {name for name, stage in planned.stages.items() if kind in (None, stage.kind)}


def test_a_study_expands_to_pretrainings_evaluations_of_them_and_their_init_and_a_report(root):
    found = plan(root)
    kinds = [stage.kind for stage in found.stages.values()]
    assert kinds == ["pretrain"] * 2 + ["evaluate"] * 3 + ["report"]
    assert [(e.arm, e.kind, e.seed) for e in found.evaluations] == [
        ("north", "pretrained", 0),
        ("south", "pretrained", 0),
        ("init", "init", None),
    ]
    assert found.evaluations[0].stage.parents == (found.runs[0].stage,)
    assert set(found.report.parents) == names(found, "evaluate")
    assert found.contrasts == [("north", "init"), ("south", "init")]


def test_steps_samples_and_epochs_follow_from_what_is_matched(root):
    by_steps = plan(root).runs[0]
    assert (by_steps.frames, by_steps.steps, by_steps.samples, by_steps.epochs) == (12, 3, 12, {"phantom": 1.0})
    tree = {"recipe": str(root / "recipe.yaml"), "epochs": 2}
    by_epochs = plan(root, match="epochs", pretrain=tree).runs[0]
    assert (by_epochs.steps, by_epochs.samples, by_epochs.epochs) == (6, 24, {"phantom": 2.0})


def test_a_recipe_in_the_other_unit_is_refused(root):
    tree = {"recipe": str(root / "recipe.yaml"), "set": ["train.epochs=2"]}
    with pytest.raises(ConfigError, match=r"match is steps, but the recipe has no train\.steps"):
        plan(root, pretrain=tree)


@pytest.mark.parametrize("key", ["run.seed=3", "data.composition.fps=1", "run.out=here"])
def test_what_the_study_sets_cannot_be_overridden(root, key):
    tree = {"recipe": str(root / "recipe.yaml"), "steps": 3, "set": [key]}
    with pytest.raises(ConfigError, match="the study sets"):
        plan(root, pretrain=tree)


def test_each_pretraining_seed_draws_its_own_cases_and_more_seeds_leave_the_first_ones_alone(root):
    one, three = plan(root), plan(root, "pretrain_seeds=3")
    north = [run for run in three.runs if run.arm == "north"]
    assert len({run.cases for run in north}) > 1
    assert {run.stage for run in one.runs} < {run.stage for run in three.runs}
    assert north[0] == one.runs[0]


def test_changing_one_task_changes_its_stages_alone(root):
    task = {"data": str(root / "labels"), "protocol": ["knn"], "folds": 2}
    both = {"phase": task, "tools": task | {"protocol": ["linear"]}}
    before, after = plan(root, tasks=both), plan(root, tasks=both | {"tools": task | {"protocol": ["knn"]}})
    assert names(before, "pretrain") == names(after, "pretrain")

    def of(found, task):
        return {e.stage.name for e in found.evaluations if e.task == task}

    assert of(before, "phase") == of(after, "phase")
    assert not of(before, "tools") & of(after, "tools")
    assert before.report.name != after.report.name


def test_equal_stages_are_one_across_arms_studies_and_folders(root, tmp_path):
    first = plan(root)
    second = plan(root, name="other", arms={"my own": load_study(root / "small.yaml").arms["north"].model_dump()})
    assert second.runs[0].stage == first.runs[0].stage
    assert names(second, "evaluate") < names(first, "evaluate")
    elsewhere = plan(tmp_path)
    assert names(elsewhere) == names(first)


def test_an_arm_with_a_seed_of_its_own_is_another_draw(root):
    found = plan(root, "arms.south={include: [{hospital: [north]}], sample: {cases: 2}, curate: none, seed: 50}")
    assert found.runs[0].stage != found.runs[1].stage
    assert found.trained[found.runs[1].stage].config["run"]["seed"] == 50


def test_an_arm_with_overrides_of_its_own_has_its_own_init(root):
    found = plan(root, "arms.south.set=[backbone.name=test_efficientnet]")
    assert found.init_of == {"north": "init north", "south": "init south"}
    assert found.contrasts == [("north", "init north"), ("south", "init south")]


def test_random_weights_stand_beside_an_init_that_is_not_random(root):
    from trocar.backbones.export import save_backbone
    from trocar.backbones.load import load_backbone

    save_backbone(load_backbone("random:test_resnet"), root / "start", extra={})
    found = plan(
        root, pretrain={"recipe": str(root / "recipe.yaml"), "steps": 3, "set": [f"backbone.name={root}/start"]}
    )
    assert [(e.arm, e.kind, e.members) for e in found.evaluations[2:]] == [("init", "init", 1), ("random", "random", 1)]


def test_named_backbones_are_baselines(root):
    found = plan(root, "baselines.backbones={other: random:test_vit}", "baselines.init=false", "baselines.random=false")
    assert [e.arm for e in found.evaluations] == ["north", "south", "other"]
    with pytest.raises(ConfigError, match=r"baselines\.backbones\.other: .*did you mean 'test_vit'"):
        plan(root, "baselines.backbones={other: random:test_vitt}")


def test_budgets_have_the_draws_they_are_asked_for_and_all_labels_one(root):
    task = {"data": str(root / "labels"), "protocol": ["knn"], "folds": 2, "budgets": [None, 1]}
    found = plan(root, "budget_draws=2", tasks={"phase": task})
    assert {(e.budget, e.draws) for e in found.evaluations} == {("100%", 1), ("1", 2)}
    drawn = make_lock(found).tasks["phase"].draws
    assert [len(cases) for draw in drawn["1"] for cases in draw.values()] == [1] * 4
    assert [len(cases) for cases in drawn["100%"][0].values()] == [2, 2]
    with pytest.raises(ConfigError, match="expected 1 to 2 training cases"):
        make_lock(plan(root, tasks={"phase": task | {"budgets": [3]}}))


def test_seeds_of_a_protocol_without_chance_change_nothing(root):
    assert names(plan(root)) == names(plan(root, "finetune_seeds=4", "budget_draws=3"))


def test_an_arm_that_cannot_be_filled_is_an_error_or_is_left_out_with_the_reason(root):
    with pytest.raises(ConfigError, match=r"arm north: .*has 4 cases.*9 cases were asked for"):
        plan(root, "arms.north.sample.cases=9")
    found = plan(root, "arms.north.sample.cases=9", "arms.north.on_short=skip")
    assert list(found.left_out) == ["north"]
    assert {run.arm for run in found.runs} == {"south"}
    with pytest.raises(ConfigError, match="'north' is not in the study"):
        _ = plan(root, "arms.north.sample.cases=9", "arms.north.on_short=skip", "contrasts=[[north, south]]").contrasts


@pytest.fixture
def leaky(tmp_path):
    """A study of which the first four cases of the pool are those of its task, by name."""
    make_study(tmp_path)
    labels = make_folder(tmp_path / "phantom")
    table = pd.read_csv(labels / "frames.csv")
    table["case"] = table["case"].str.replace("case", "case0")
    table.to_csv(labels / "frames.csv", index=False)
    return tmp_path


def leaky_plan(root, policy):
    task = {"data": str(root / "phantom"), "protocol": ["knn"], "folds": 2}
    return plan(root, f"leak={policy}", tasks={"phase": task})


def test_test_cases_leave_the_pool_before_it_is_sampled_and_the_plan_says_so(leaky):
    found = leaky_plan(leaky, "exclude")
    used = {case for run in found.runs for case in run.cases}
    assert used == {f"phantom/case0{i}" for i in (4, 5, 6, 7)}  # arms keep their size
    lines = [line for line in plan_tables(found, make_lock(found), Store(leaky)) if isinstance(line, str)]
    (line,) = [line for line in lines if line.startswith("leak: phantom/case00 ")]
    assert "phase" in line
    assert line.endswith("left out before sampling")


def test_under_error_a_pool_with_a_test_case_is_refused_by_name(leaky):
    with pytest.raises(ConfigError, match=r"(?s)arm north: .*phantom/case00.*phase"):
        leaky_plan(leaky, "error")


def test_what_is_allowed_stays_in_the_pool_and_on_record(leaky):
    found = leaky_plan(leaky, "allow")
    assert {leak.pool for run in found.runs for leak in run.leaks} >= {"phantom/case00", "phantom/case01"}


def test_the_lock_has_the_cases_of_every_arm_and_is_read_back_as_it_was(root, tmp_path):
    lock = make_lock(plan(root))
    assert all(len(run.cases) == 2 for run in lock.runs)
    store = Store(tmp_path)
    write_lock(store, lock)
    assert read_lock(store, "small") == lock
    assert read_lock(store, "other") is None
    assert drift(lock, lock) == []


def test_a_raised_stage_version_is_drift(root, monkeypatch):
    before = make_lock(plan(root))
    now = stages.STAGE_VERSION["evaluate"]
    monkeypatch.setattr(stages, "STAGE_VERSION", stages.STAGE_VERSION)
    monkeypatch.setitem(stages.STAGE_VERSION, "evaluate", now + 1)
    after = make_lock(plan(root))
    changed = f"stage version of evaluate: {now} -> {now + 1}; its 3 stages are computed again"
    assert drift(before, after) == [changed]
    assert {n for n in before.stages if n.startswith("pretrain")} < set(after.stages)
    assert not {n for n in before.stages if n.startswith("evaluate")} & set(after.stages)


def test_new_data_is_drift_and_an_edited_study_is_not(root, tmp_path):
    before = make_lock(plan(root))
    edited = make_lock(plan(root, "arms.north.sample.cases=3"))
    assert drift(before, edited) == []
    assert edits(before, edited) == ["arms"]
    grown = tmp_path / "shards"
    make_catalog(grown, 80, 6)
    after = make_lock(plan(root, f"catalog={grown}"))
    changes = drift(before, after)
    assert any(change.startswith("arm north, seed 0: 2 cases, ") for change in changes)
