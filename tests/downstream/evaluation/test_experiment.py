"""What a protocol gets to see, and what is said of a data set that is not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from training_factory import make_encoder, open_bench

import trocar.downstream.evaluation.evaluate as evaluate_module
from trocar.downstream.datasets import open_dataset
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.folds import Budget
from trocar.downstream.protocols.base import Problem
from trocar.errors import ConfigError
from trocar.jobs.evaluate import evaluate


def split_folder(root: Path, cases: int = 5) -> Path:
    """The last two cases validate and test."""
    make_folder(root, cases=cases, frames=6)
    table = pd.read_csv(root / "frames.csv")
    number = table["case"].str.removeprefix("case").astype(int)
    table["split"] = np.select([number == cases - 1, number == cases - 2], ["test", "val"], "train")
    table.to_csv(root / "frames.csv", index=False)
    return root


def first_problem(tmp_path: Path, tasks: str, budget: int | None = None) -> tuple[Problem, np.ndarray]:
    """The problem of the published split, and the split of every row."""
    bench = open_bench(split_folder(tmp_path / "data"), tasks, folds="split", budget=Budget(budget))
    (fold,) = bench.drawn(0)
    return bench.problem(fold, make_encoder(bench, tmp_path), 0), bench.data.frames["split"].to_numpy(str)


def test_a_problem_has_the_labels_of_train_and_val_and_no_label_of_test(tmp_path: Path) -> None:
    problem, split = first_problem(tmp_path, "phase+tools")
    table = pd.read_csv(tmp_path / "data/frames.csv").sort_values(["case", "time_s"])
    assert problem.val is not None
    for rows, side in ((problem.train, "train"), (problem.val, "val")):
        assert rows.tolist() == np.flatnonzero(split == side).tolist()
        assert problem.targets[rows].tolist() == table["phase"].to_numpy()[rows].tolist()
    lead, partner = problem.goals
    assert (lead.targets[problem.test] == -1).all()
    assert (partner.targets[split == "test"] == -1).all()
    assert partner.targets[split != "test"][:, 0].tolist() == table["tool_red"].to_numpy()[split != "test"].tolist()


def test_a_partner_has_no_labels_of_cases_that_the_budget_leaves_out(tmp_path: Path) -> None:
    problem, _ = first_problem(tmp_path, "phase+tools", budget=1)
    partner = problem.goals[1]
    assert problem.val is not None
    labelled = np.flatnonzero((partner.targets >= 0).all(1))
    assert sorted(labelled) == sorted([*problem.train, *problem.val])
    assert len(np.unique(problem.case[problem.train])) == 1


def test_the_first_of_tasks_that_are_learned_together_leads(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=4)
    bench = open_bench(root, "tools+phase")
    problem = bench.problem(bench.folds[0], make_encoder(bench, tmp_path), 3)
    assert (bench.name, problem.task.name, problem.goals[1].task.name) == ("tools+phase", "tools", "phase")
    assert (problem.seed, problem.targets[problem.train].shape) == (3, (4, 1))
    with pytest.raises(ConfigError, match="names a task twice"):
        open_bench(root, "phase+phase")


def test_frames_of_either_task_are_used_and_each_task_is_scored_on_its_own(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=4)
    table = pd.read_csv(root / "frames.csv").astype({"phase": "Int64", "tool_red": "Int64"})
    table.loc[table["time_s"] == 0, "phase"] = pd.NA
    table.loc[table["time_s"] >= 2, "tool_red"] = pd.NA
    table = table[table["time_s"] < 4]
    table.to_csv(root / "frames.csv", index=False)
    bench = open_bench(root, "phase+tools")
    phase, tools = bench.tasks
    assert len(bench.rows) == 8
    assert (int(bench.labelled(phase).sum()), int(bench.labelled(tools).sum())) == (6, 4)
    problem = bench.problem(bench.folds[0], make_encoder(bench, tmp_path), 0)
    assert problem.targets[problem.train].tolist() == [-1, 0, 1, 1]


@pytest.mark.parametrize(("official", "said"), [(6, None), (8, "incomplete (6 of 8 official test frames)")])
def test_another_count_than_the_official_one_is_said_in_file_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official: int, said: str | None
) -> None:
    root = split_folder(tmp_path / "data")

    def opened(*arguments: object) -> object:
        return replace(open_dataset(*arguments), official={("phase", "test"): official})  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_module, "open_dataset", opened)
    out = tmp_path / "out"
    found = evaluate(EvaluateConfig(data=root, protocol=["knn"], baselines=["mean colour"], out=out, bootstrap=0))
    assert json.loads((out / "results.json").read_text())["tasks"]["phase"]["incomplete"] == said
    assert ("ncomplete (6 of 8" in (out / "results.md").read_text()) == (said is not None)
    assert ("ncomplete (6 of 8" in str(found.tables()[0].caption)) == (said is not None)


def test_a_count_is_not_compared_with_the_official_one_on_folds_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = split_folder(tmp_path / "data")
    official = {("phase", "test"): 8}
    monkeypatch.setattr(evaluate_module, "open_dataset", lambda *a: replace(open_dataset(*a), official=official))
    config = EvaluateConfig(
        data=root, protocol=["knn"], baselines=["mean colour"], folds=2, cache=tmp_path / "cache", bootstrap=0
    )
    assert evaluate(config).tasks["phase"]["incomplete"] is None
