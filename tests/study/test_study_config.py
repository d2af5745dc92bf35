import pytest
from study_factory import make_study

from trocar.core.config import preset_names, validate
from trocar.errors import ConfigError
from trocar.study.config import GridConfig, StudyConfig, load_study


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("match=null", "match"),
        ("mach=steps", "did you mean 'match'"),
        ("pretrain.epochs=3", "match: steps, but pretrain.epochs is set"),
        ("tasks.phase.protocol=[liner]", "did you mean 'linear'"),
        ("tasks.phase.task=phse", "did you mean 'phase'"),
        ("tasks.phase.metric=f1@pooled_marco", "did you mean 'f1@pooled_macro'"),
        ("tasks.phase.task=phase+tols", "did you mean 'tools'"),
        ("tasks.phase={task: phase+tools, score: step, data: x}", "this task learns phase and tools"),
        ("tasks.phase={task: phase+tools, score: tools, metric: jaccard@x, data: x}", "metrics of tools"),
        ("tasks.phase.protocol=[knn, {name: knn}]", "'knn' is listed twice"),
        ("tasks.phase.budgets=[null, 100%]", "listed twice"),
        ("tasks.phase.budgts=[2]", "did you mean 'budgets'"),
        ("contrasts=[[north, suoth]]", "did you mean 'south'"),
        ("arms.init={}", "both an arm and a baseline"),
        ("arms={}", "nothing to compare"),
        ("grid={}", "no axis"),
        ("grid={hospital: [north], skip: [sooth]}", "no cell 'sooth'"),
        ("grid={hospital: [north]}", "'north' is an arm and a cell"),
        ("grid={cases: [2], base: {sample: {cases: 3}}}", "keep one"),
        ("grid={hospital: [north], base: {include: [{hospital: [south]}]}}", "which is an axis"),
        ("store='a,b'", "without a comma"),
    ],
)
def test_what_is_wrong_with_a_study_file_is_said(override, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        load_study(make_study(tmp_path), [override])
    assert words in str(error.value)


def test_match_is_required(tmp_path):
    path = make_study(tmp_path)
    path.write_text(path.read_text().replace("match: steps\n", ""))
    with pytest.raises(ConfigError, match="'match' is required"):
        load_study(path)


def test_a_grid_has_every_combination_and_what_base_says_holds_for_all():
    grid = GridConfig.model_validate(
        {
            "hospital": ["north", "north+south", "all"],
            "cases": [2, 4],
            "weights": ["sqrt"],
            "base": {"include": [{"split": ["train"]}], "fps": 1},
            "skip": ["all-4-sqrt"],
        }
    )
    cells = grid.cells()
    assert list(cells) == ["north-2-sqrt", "north-4-sqrt", "north+south-2-sqrt", "north+south-4-sqrt", "all-2-sqrt"]
    assert cells["north+south-4-sqrt"]["sample"]["cases"] == 4
    assert cells["north+south-4-sqrt"]["weights"] == "sqrt"
    assert cells["north+south-4-sqrt"]["fps"] == 1
    (match,) = cells["north+south-4-sqrt"]["include"]
    assert (match["hospital"], match["split"]) == (["north", "south"], ["train"])
    (match,) = cells["all-2-sqrt"]["include"]
    assert match["hospital"] is None


def test_the_cells_of_a_grid_are_arms(tmp_path):
    study = load_study(make_study(tmp_path), ["arms={}", "grid={hospital: [north], procedure: [cholecystectomy, all]}"])
    assert list(study.all_arms()) == ["north-cholecystectomy", "north-all"]


def test_an_arm_is_a_composition_with_a_seed_and_overrides_of_its_own(tmp_path):
    study = load_study(make_study(tmp_path), ["arms.north.seed=7", "arms.north.set=[train.batch=8]"])
    arm = study.arms["north"]
    assert (arm.seed, arm.set) == (7, ["train.batch=8"])
    assert arm.composition.sample.cases == 2
    assert not hasattr(arm.composition, "seed")


def presets():
    return [name for name in preset_names() if name.startswith("study/")]


def test_there_are_four_studies_in_the_box():
    assert presets() == ["study/jumpstarting", "study/phantom", "study/phantom_full", "study/surgenet_scaling"]


@pytest.mark.parametrize("name", presets())
def test_every_study_in_the_box_is_legal(name):
    study = load_study(name)
    assert study.all_arms()
    assert validate(StudyConfig, study.model_dump(mode="json"), name) == study


def test_jumpstarting_names_all_mixtures_and_the_22nd_is_the_init():
    study = load_study("study/jumpstarting")
    assert len({*study.all_arms(), *study.unavailable}) == 21
    assert study.baselines.init


def test_the_scales_of_surgenet_are_nested():
    arms = load_study("study/surgenet_scaling").all_arms()
    sources = {name: {source for match in arm.include for source in match.source} for name, arm in arms.items()}
    assert sources["public"] < sources["xl"]
