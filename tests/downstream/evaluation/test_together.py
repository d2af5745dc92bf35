"""An evaluation that several ranks share ends in the bytes of one process."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from downstream_factory import make_folder
from finished_factory import TUNED, files, settings
from share_factory import together

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.downstream.evaluation import evaluate as comparison
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.result_cache import FOLDER, Finished
from trocar.downstream.evaluation.together import Turns
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols import get_protocol
from trocar.downstream.work_share import WorkShare
from trocar.leakage import judge


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled frames in data/, a network in run/, and the evaluation of one process in whole/."""
    root = tmp_path_factory.mktemp("together")
    make_folder(root / "data")
    save_backbone(load_backbone("test_resnet"), root / "run", extra={})
    comparison.evaluate(shared(root, "whole"), judge)
    return root


def shared(root: Path, out: str) -> EvaluateConfig:
    words = {"task": ["phase", "tools"], "protocol": ["knn", "linear"], "batch": 8}
    return settings(root, out, backbone=[f"{root}/run"], **words)


def rank(config: EvaluateConfig, share: WorkShare) -> None:
    if share.rank:
        comparison.take_part(config, share, "cpu")
    else:
        comparison.evaluate(config, judge, together=lambda: nullcontext(share))


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_ranks_leave_the_tables_features_and_finished_folds_of_one_process(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[bool] = []  # of each solution of a problem: whether it was computed for it
    keep = Finished._kept

    def counted(self: Finished, *args: Any) -> Any:
        found, is_new = keep(self, *args)
        solved.append(is_new)
        return found, is_new

    monkeypatch.setattr(Finished, "_kept", counted)
    together(2, lambda share: rank(shared(root, "two"), share))
    assert files(root / "two") == files(root / "whole")
    for folder in ("cache", FOLDER):
        assert below(root / "two" / folder) == below(root / "whole" / folder)
    problems = len(below(root / "whole" / FOLDER))
    assert (sum(solved), len(solved)) == (problems, 2 * problems)  # once by its rank; rank 0 then finds it


def everyone(protocols: list[Any], arms: int, folds: int, ranks: int) -> dict[tuple[str, int, int], list[int]]:
    """Whose turn each problem is, by protocol, arm and fold."""
    found: dict[tuple[str, int, int], list[int]] = {}
    bench: Any = SimpleNamespace(name="phase")
    for one in range(ranks):
        turns = Turns(WorkShare(one, ranks))
        for number in range(arms):
            arm: Any = SimpleNamespace(label=f"arm {number}")
            for wanted in protocols:
                protocol = get_protocol(wanted)
                for fold in range(folds):
                    if turns.is_mine(protocol, arm, bench, RunIndex(0, 0, 0), fold):
                        found.setdefault((protocol.name, number, fold), []).append(one)
    return found


@pytest.mark.parametrize(("arms", "folds", "ranks"), [(1, 5, 2), (4, 1, 2), (3, 3, 4), (2, 2, 7)])
def test_every_problem_is_one_ranks_and_each_protocol_is_divided_evenly(arms: int, folds: int, ranks: int) -> None:
    found = everyone(["knn", TUNED], arms, folds, ranks)
    assert len(found) == 2 * arms * folds
    assert all(len(turns) == 1 for turns in found.values())
    for name in ("knn", "finetune"):
        counts = [sum(turns == [one] for key, turns in found.items() if key[0] == name) for one in range(ranks)]
        assert max(counts) - min(counts) <= 1


def test_single_problems_of_two_protocols_go_to_two_ranks() -> None:
    assert sorted(everyone(["knn", "linear"], 1, 1, 2).values()) == [[0], [1]]


def test_what_goes_on_from_a_fine_tuned_network_is_solved_where_that_is() -> None:
    tuned = {name: value for name, value in TUNED.items() if name != "name"}
    found = everyone([TUNED, {"name": "temporal_finetuned", "finetune": tuned}], 2, 3, 2)
    for arm in range(2):
        for fold in range(3):
            assert found["finetune", arm, fold] == found["temporal_finetuned", arm, fold]
