"""An evaluation that is run again does what is left, and never takes a result for one it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder
from finished_factory import StoppedError, files, settings
from mask_factory import make_mask_folder

from trocar.cli.main import main
from trocar.downstream.evaluation import result_cache
from trocar.downstream.evaluation.result_cache import FOLDER, Finished
from trocar.downstream.protocols.base import Problem, Protocol, Solution, read_solution, write_solution
from trocar.downstream.protocols.finetune import Finetune
from trocar.downstream.protocols.probes import KNN
from trocar.downstream.protocols.segmentation import SegmentationProtocol
from trocar.jobs.evaluate import evaluate


def after(calls: int) -> Callable[..., object]:
    """`Finetune.predict` that stops at the call after so many."""
    predict, made = Finetune.predict, []

    def stopping(self: Finetune, problem: Problem) -> object:
        if len(made) == calls:
            raise StoppedError
        made.append(1)
        return predict(self, problem)

    return stopping


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled frames in data/ and an evaluation that nothing disturbed in whole/."""
    root = tmp_path_factory.mktemp("finished")
    make_folder(root / "data")
    evaluate(settings(root, "whole"))
    return root


@pytest.mark.parametrize("calls", [1, 5])
def test_stopped_between_two_trainings_it_ends_in_the_bytes_of_one_that_was_not(root: Path, calls: int) -> None:
    config = settings(root, f"stopped{calls}", cache=root / "cache")
    with patch.object(Finetune, "predict", after(calls)), pytest.raises(StoppedError):
        evaluate(config)
    assert not (root / f"stopped{calls}/results.json").exists()
    trained, predict = [], Finetune.predict
    with patch.object(Finetune, "predict", lambda self, problem: (trained.append(1), predict(self, problem))[1]):
        evaluate(config)
    assert len(trained) == 2 * 2 * 2 - calls  # tasks, draws of random weights, folds
    assert files(root / f"stopped{calls}") == files(root / "whole")


def test_what_is_added_is_all_that_is_computed_and_the_user_is_told_arm_by_arm(root: Path) -> None:
    evaluate(settings(root, "added", task=["phase"], protocol=["linear"]))
    said: list[str] = []
    evaluate(settings(root, "added", task=["phase"], protocol=["linear", "knn"]), said.append)
    # Of two folds: linear and k-NN with two draws of weights, and with mean colour.
    arms = ["random:test_resnet", "  4 of 8 parts (protocol, seed, fold) were finished before"]
    arms += ["mean colour", "  2 of 4 parts (protocol, seed, fold) were finished before"]
    arms += ["majority", "  2 of 2 parts (protocol, seed, fold) were finished before"]
    assert said[-len(arms) :] == arms


def test_a_damaged_piece_is_told(root: Path) -> None:
    config = settings(root, "damaged", task=["phase"], protocol=["linear"], baselines=[])
    evaluate(config)
    path = next((root / "damaged" / FOLDER).iterdir())
    path.write_bytes(path.read_bytes()[:50])
    said: list[str] = []
    evaluate(config, said.append)
    assert said[-2:] == [
        "  3 of 4 parts (protocol, seed, fold) were finished before",
        f"  1 damaged files in {root / 'damaged' / FOLDER}, made again",
    ]


def test_figures_of_what_is_no_longer_in_the_tables_are_gone(root: Path) -> None:
    words = {"task": ["phase"], "baselines": [], "seeds": 1, "figures": True}
    evaluate(settings(root, "drawn", protocol=["linear", "knn"], **words))
    before = {path.name for path in (root / "drawn/figures").iterdir()}
    evaluate(settings(root, "drawn", protocol=["knn"], **words))
    after = {path.name for path in (root / "drawn/figures").iterdir()}
    assert after == {name for name in before if "-knn-" in name}
    assert after < before


def test_without_an_output_folder_nothing_is_kept(root: Path) -> None:
    made: list[int] = []
    store = Finished(None)
    for _ in range(2):
        store.solve(KNN(), None, lambda: (made.append(1), Solution({}, {}))[1])  # type: ignore[arg-type]
    assert (len(made), store.reused) == (2, 0)


@pytest.fixture
def problem(root: Path) -> Problem:
    """Half of the frames train, half test."""
    from trocar.downstream.datasets import open_dataset
    from trocar.downstream.datasets.base import DatasetOptions
    from trocar.downstream.evaluation.experiment import make_experiment
    from trocar.downstream.evaluation.runner import _nothing
    from trocar.downstream.features.feature_cache import Encoder
    from trocar.downstream.features.frame_cache import FrameCache

    data = open_dataset(root / "data", None, DatasetOptions())
    bench = make_experiment("phase", data, folds=2)
    return bench.problem(bench.folds[0], Encoder(FrameCache(data, root / "cache"), 32, None, _nothing), 0)


def key(problem: Problem, protocol: Protocol | None = None, remap: str = "") -> str:
    protocol = protocol or KNN()
    return result_cache._key(protocol.name, protocol.model_dump_json(exclude={"title"}), protocol, problem, remap)


def test_whatever_a_prediction_follows_from_is_in_its_key(problem: Problem) -> None:
    (goal,), train, encoder, space = problem.goals, problem.train, problem.encoder, problem.space
    other_labels = goal.targets.copy()
    other_labels[train] = goal.targets[train][::-1]
    changed = {
        "protocol": key(problem, Finetune()),
        "setting": key(problem, KNN(neighbours=3)),
        "remap": key(problem, remap="x"),
        "seed": key(replace(problem, seed=1)),
        "labels": key(replace(problem, goals=(replace(goal, targets=other_labels),))),
        "precision": key(replace(problem, encoder=replace(encoder, precision="bfloat16"))),
        "device": key(replace(problem, encoder=replace(encoder, device="cuda", batch=64))),
        "batch": key(replace(problem, encoder=replace(encoder, batch=65))),
        "validation": key(replace(problem, val=train)),
        "test frames": key(replace(problem, test=problem.test[1:])),
        "times": key(replace(problem, time_s=problem.time_s + 1)),
        "classes": key(replace(problem, goals=(replace(goal, space=replace(space, classes=space.classes[::-1])),))),
        "size": key(replace(problem, encoder=replace(encoder, size=64))),
        "weights": key(
            replace(problem, encoder=replace(encoder, plain=lambda frames: np.zeros((len(frames.data), 1))))
        ),
    }
    with patch.object(result_cache, "_code", lambda: "other sources"):
        changed["code"] = key(problem)
    assert len({key(problem), *changed.values()}) == 1 + len(changed)
    same = {"said": replace(encoder, batch=64), "processes": replace(encoder, workers=3)}
    assert {key(replace(problem, encoder=other)) for other in same.values()} == {key(problem)}


def test_the_title_of_a_protocol_is_not_part_of_its_result(problem: Problem) -> None:
    assert key(problem, KNN(title="mine")) == key(problem)


def test_no_flipped_bit_in_a_file_is_taken_for_a_solution(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_solution(path, Solution({"scores": np.random.default_rng(0).random((700, 3))}, {"a": 1}))
    whole = path.read_bytes()
    expected = read_solution(path)
    assert expected is not None
    for place in [*range(300), *range(300, len(whole), 997), *range(len(whole) - 300, len(whole))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        found = read_solution(path)
        # A bit of zip's own notes, such as the time of an entry, may differ: the content may not.
        assert found is None or (
            found.words == expected.words and found.arrays["scores"].tobytes() == expected.arrays["scores"].tobytes()
        ), place


@pytest.mark.parametrize("spoil", ["cut", "flipped", "empty", "other"])
def test_a_damaged_solution_is_computed_again(root: Path, problem: Problem, tmp_path: Path, spoil: str) -> None:
    store = Finished(tmp_path)
    first = store.predict(KNN(), problem)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = whole.index(first.scores.tobytes()[:64]) + 8
    broken = {
        "cut": whole[:-30],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "other": b"not an archive",
    }
    path.write_bytes(broken[spoil])
    again = store.predict(KNN(), problem)
    assert store.reused == 0
    np.testing.assert_array_equal(again.scores, first.scores)
    assert path.read_bytes() == whole


def test_masks_that_are_gone_or_whose_truth_changed_are_made_again(tmp_path: Path) -> None:
    make_mask_folder(tmp_path / "data")
    quick = {"name": "segmentation", "epochs": 1, "batch": 4, "decoder": "linear"}
    config = settings(tmp_path, "out", task=["segmentation"], protocol=[quick], baselines=[], seeds=1, folds=2)

    def fitted() -> int:
        made, segment = [], SegmentationProtocol.segment
        with patch.object(SegmentationProtocol, "segment", lambda *words: (made.append(1), segment(*words))[1]):
            evaluate(config)
        return len(made)

    assert fitted() == 2
    before = files(tmp_path / "out")
    assert fitted() == 0
    assert files(tmp_path / "out") == before
    table = pd.read_parquet(tmp_path / "out/predictions.parquet")
    (tmp_path / "out" / table["pred_mask"].iloc[0]).unlink()
    assert fitted() == 1
    (tmp_path / "out" / table["gt_mask"].iloc[-1]).unlink()
    assert fitted() == 1
    assert files(tmp_path / "out") == before
    os.utime(tmp_path / "data/masks/0_0.png", ns=(1, 1))
    assert fitted() == 2  # it trains in one fold and tests in the other


def test_interrupted_from_the_command_line_it_says_that_it_goes_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(root, "cli", task=["phase"]).model_dump(mode="json", exclude_defaults=True)
    (root / "evaluate.yaml").write_text(json.dumps(config))

    def interrupted(self: Finetune, problem: Problem) -> object:
        raise KeyboardInterrupt

    with patch.object(Finetune, "predict", interrupted):
        assert main(["evaluate", str(root / "evaluate.yaml")]) == 130
    assert "the same command continues where it stopped" in capsys.readouterr().err
    assert main(["evaluate", str(root / "evaluate.yaml")]) == 0
    assert "were finished before" in capsys.readouterr().err


def test_a_dry_run_prints_what_would_be_evaluated_and_writes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = root / "dry"
    words = ["--task", "phase", "--protocol", "knn", "--backbone", "random:test_resnet", "--out", str(out)]
    assert main(["evaluate", "--data", str(root / "data"), *words, "--dry-run"]) == 0
    assert "random:test_resnet, 3 seeds: knn" in capsys.readouterr().out
    assert not out.exists()
