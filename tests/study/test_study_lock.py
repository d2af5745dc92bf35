import json

import pytest
from lock_factory import arm_run, study_lock
from pydantic import ValidationError
from study_factory import make_stages

from trocar.errors import ConfigError, TrocarError
from trocar.study.stages import Store
from trocar.study.study_lock import FORMAT, LockedWeights, path_of, read_lock, require_lock, write_lock


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def damage(store, lock, change):
    """Write a lock whose JSON tree went through `change`."""
    path = write_lock(store, lock)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_a_lock_is_read_back_as_it_was_written(store):
    weights = {
        "test_resnet": LockedWeights(kind="timm", name="test_resnet"),
        "runs/a": LockedWeights(kind="folder", sha256=("a" * 64, "b" * 64)),
    }
    lock = study_lock(make_stages(), runs=(arm_run(), arm_run(seed=1)), weights=weights, contrasts=(("north", "init"),))
    write_lock(store, lock)
    assert read_lock(store, "small") == lock
    tree = json.loads(path_of(store, "small").read_text())
    assert tree["weights"] == {
        "test_resnet": {"kind": "timm", "name": "test_resnet"},
        "runs/a": {"kind": "folder", "sha256": ["a" * 64, "b" * 64]},
    }
    assert list(tree) == [
        "format", "trocar", "study", "versions", "plugins", "catalog", "weights", "runs", "init_of", "tasks",
        "evaluations", "contrasts", "left_out", "report", "stages",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda tree: tree["runs"][1].update(steps="three"), r"runs\.1\.steps: Input should be a valid integer"),
        (lambda tree: tree["runs"][0].pop("cases"), r"runs\.0\.cases: Field required"),
        (lambda tree: tree.update(report=None), r"report: Input should be a valid string"),
        (lambda tree: tree["study"].update(match="hours"), r"study\.match: Input should be 'steps' or 'epochs'"),
        (lambda tree: tree.update(more=1), r"more: Extra inputs are not permitted"),
    ],
)
def test_a_lock_that_does_not_fit_is_refused_by_the_field_with_what_to_do(store, change, field):
    damage(store, study_lock(runs=(arm_run(), arm_run(seed=1))), change)
    with pytest.raises(TrocarError, match=rf"study\.lock does not fit \({field}.*; delete it and plan the study again"):
        require_lock(store, "small")


def test_of_many_wrong_fields_three_are_named_and_the_rest_counted(store):
    damage(
        store, study_lock(), lambda tree: [tree.pop(name) for name in ("runs", "tasks", "stages", "report", "trocar")]
    )
    with pytest.raises(TrocarError, match=r"trocar: Field required; runs: .*; tasks: Field required; 2 more\)"):
        read_lock(store, "small")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", f"has format None, this is {FORMAT}; delete it and plan the study again"),
        ('{"format": 4}', f"has format 4, this is {FORMAT}; delete it and plan the study again"),
        ('{"format": 5', "is damaged .*; delete it and plan the study again"),
    ],
)
def test_a_lock_of_another_format_or_cut_short_is_refused_with_what_to_do(store, text, said):
    write_lock(store, study_lock())
    path_of(store, "small").write_text(text)
    with pytest.raises(TrocarError, match=said):
        read_lock(store, "small")


def test_a_study_that_was_never_planned_has_no_lock(store):
    assert read_lock(store, "small") is None
    with pytest.raises(ConfigError, match="run `trocar study plan` first"):
        require_lock(store, "small")


def test_a_lock_does_not_change():
    lock = study_lock()
    with pytest.raises(ValidationError, match="frozen"):
        lock.report = "report-1"
