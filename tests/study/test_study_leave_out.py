"""Every task with pretrainings of its own, that leave out its held-out cases alone."""

from __future__ import annotations

import pandas as pd
import pytest
from downstream_factory import make_folder
from study_factory import make_study

from trocar.errors import ConfigError
from trocar.leakage.guard import LeakSearch
from trocar.study.config import load_study
from trocar.study.overview import Rates, arm_rows, plan_tables, price
from trocar.study.stages import Store
from trocar.study.study_plan import make_lock, make_plan


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The pool has four cases of each hospital, even ones of the north. The first four are those of one labelled data
    set, number 6 and 7 those of another one.
    """
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    for place, cases in (("early", range(4)), ("late", range(6, 8))):
        labels = make_folder(folder / place / "phantom", cases=len(cases), frames=6)
        table = pd.read_csv(labels / "frames.csv")
        table["case"] = table["case"].map({f"case{k}": f"case{case:02d}" for k, case in enumerate(cases)})
        table.to_csv(labels / "frames.csv", index=False)
    return folder


def plan(root, *overrides, cases=1, **tasks):
    early, late = (
        {"data": str(root / place / "phantom"), "protocol": ["knn"], "folds": 2} for place in ("early", "late")
    )
    tasks = tasks or {"phase": early, "tools": early, "late": late | {"task": "phase"}}
    cut = [f"arms.{arm}.sample.cases={cases}" for arm in ("north", "south")]
    return make_plan(load_study(make_study(root, tasks=tasks), [*cut, *overrides]))


def lines(found, *overrides):
    return list(price(found, Rates(Store(found.study.store), found.study.speed)))


def test_one_pretraining_serves_the_tasks_that_leave_out_the_same(root):
    found = plan(root, "leave_out=task", cases=2)
    assert [(run.arm, run.tasks) for run in found.runs] == [
        ("north", ("phase", "tools")),
        ("north", ("late",)),
        ("south", ("phase", "tools")),
        ("south", ("late",)),
    ]
    assert len({run.stage for run in found.runs}) == len(found.trained) == 4
    assert found.runs[0].cases == ("phantom/case04", "phantom/case06")  # those of the other task stay in the pool
    assert "phantom/case06" not in found.runs[1].cases
    assert found.labels[found.runs[1].stage] == "north, seed 0, for late"


def test_each_task_is_scored_with_the_pretrainings_that_leave_out_its_cases(root):
    found = plan(root, "leave_out=task", cases=2)
    parents = {(e.arm, e.task): e.stage.parent_backbone for e in found.evaluations if e.kind == "pretrained"}
    assert parents == {(run.arm, task): run.stage for run in found.runs for task in run.tasks}
    assert {e.task for e in found.evaluations if e.arm == "init"} == {"phase", "tools", "late"}


def test_by_default_one_pretraining_leaves_out_the_cases_of_all_tasks_and_has_no_price(root):
    found = plan(root)
    assert [run.tasks for run in found.runs] == [("phase", "tools", "late")] * 2
    assert found.runs[0].cases == ("phantom/case04",)
    assert lines(found) == []


def test_the_price_is_what_one_pretraining_for_all_tasks_would_not_cost(root):
    found = plan(root, "leave_out=task", "pretrain_seeds=2", "speed.images_per_s=0.01")
    shared = plan(root, "pretrain_seeds=2")
    own, all_tasks = set(found.trained), set(shared.trained)
    more = len(own) - len(all_tasks)
    assert more > 0
    # 3 steps of 4 frames at 0.01 frames a second are 20 minutes
    (line,) = lines(found)
    assert line == (
        f"leave_out: task: {len(own)} pretrainings, where one for all tasks would be {len(all_tasks)}: {more} more, "
        f"{3 * more} steps more, {20 * more} min more on one GPU or machine"
    )
    assert line in list(plan_tables(found, make_lock(found), Store(root)))
    assert "hours unknown" in lines(plan(root, "leave_out=task"))[0]


def test_tasks_whose_exclusions_make_no_difference_share_a_pretraining(root):
    whole = [f"arms.{arm}.include=[{{case: [{case}]}}]" for arm, case in (("north", "case04"), ("south", "case05"))]
    found = plan(root, "leave_out=task", *whole)
    assert [run.tasks for run in found.runs] == [("phase", "tools", "late")] * 2
    assert lines(found)[0].startswith("leave_out: task: 2 pretrainings, where one for all tasks would be 2: 0 more")


def test_an_arm_that_cannot_be_for_all_tasks_at_once_is_no_part_of_the_price_and_that_is_said(root):
    found = plan(root, "leave_out=task", cases=2)
    first, second = lines(found)
    assert first.startswith("leave_out: task: north has no price, because for all tasks it can't be: composition: cell")
    assert second.startswith("leave_out: task: south has no price")


def test_the_arms_of_a_plan_have_a_row_for_every_set_of_tasks(root):
    rows = [row[:3] for row in arm_rows(plan(root, "leave_out=task", cases=2))]
    assert rows[:2] == [("north (for phase, tools)", "1", "2"), ("north (for late)", "1", "2")]


def test_the_lock_says_which_tasks_a_pretraining_serves(root):
    lock = make_lock(plan(root, "leave_out=task", cases=2))
    assert [run.tasks for run in lock.runs] == [("phase", "tools"), ("late",)] * 2


@pytest.mark.parametrize("policy", ["error", "allow"])
def test_where_no_case_leaves_a_pool_there_is_nothing_to_leave_out_per_task(root, policy):
    with pytest.raises(ConfigError, match=f"leave_out: task needs leak: exclude; under {policy}"):
        plan(root, "leave_out=task", f"leak={policy}")


def test_held_out_cases_are_read_and_a_pool_searched_once_whatever_the_number_of_seeds(root, monkeypatch):
    from trocar.leakage import guard, held_out_sources

    read, searched = [], []
    reading, searching = held_out_sources.held_out, guard.find_leaks
    monkeypatch.setattr(held_out_sources, "held_out", lambda *words: read.append(1) or reading(*words))
    monkeypatch.setattr(guard, "find_leaks", lambda *words: searched.append(1) or searching(*words))
    found = plan(root, "pretrain_seeds=4")
    assert len(found.runs) == 8
    assert (len(read), len(searched)) == (1, 2)  # two hospitals are two pools


def test_a_search_that_is_remembered_finds_what_a_fresh_one_does(root):
    from trocar.data.catalog.catalog import Catalog
    from trocar.leakage.guard import guarding_of
    from trocar.study.planned_pretrainings import guard_of

    study = load_study(make_study(root), [f"tasks.phase.data={root / 'early' / 'phantom'}"])
    arm = study.arms["north"]
    composition = arm.composition.model_copy(update={"leak": guard_of(study, arm, study.tasks)})
    catalog, search = Catalog.open(study.catalog), LeakSearch()
    twice = [guarding_of(search.resolve(composition, catalog)).leaks for _ in range(2)]
    assert twice[0] == twice[1] == guarding_of(LeakSearch().resolve(composition, catalog)).leaks
    assert {leak.pool for leak in twice[1]} == {"phantom/case00", "phantom/case02"}


def test_what_is_held_out_is_read_with_the_class_names_that_the_task_gives(root):
    from trocar.study.planned_pretrainings import guard_of, task_sets

    study = load_study(make_study(root), ["tasks.phase.phases=[first, second]"])
    (held,) = guard_of(study, study.arms["north"], ["phase"]).against
    assert held.phases == ("first", "second")
    assert type(held).__name__ == "LabelledFolder"
    assert task_sets(study) == [("phase",)]
