"""An evaluation that is run again does what is left, and never takes a result for one it is not."""

from __future__ import annotations

import errno
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
from mask_factory import make_mask_folder

from trocar.cli import main
from trocar.downstream import finished
from trocar.downstream.config import EvaluateConfig
from trocar.downstream.evaluate import evaluate
from trocar.downstream.finished import FOLDER, NETWORK, Finished
from trocar.downstream.protocols.base import Problem, Protocol
from trocar.downstream.protocols.finetune import Finetune
from trocar.downstream.protocols.knn import KNN
from trocar.downstream.protocols.segmentation import Segmentation
from trocar.downstream.solution import Solution, read_solution, write_solution
from trocar.downstream.training.loop import Trainer

TUNED = {"name": "finetune", "epochs": 2, "batch": 8, "augment": None}
TABLES = ("predictions.parquet", "results.json", "results.md", "metrics.json")


def settings(root: Path, out: str, **changes: object) -> EvaluateConfig:
    given = {
        "backbone": ["random:test_resnet"],
        "data": root / "data",
        "task": ["phase", "phase+tools"],
        "protocol": ["linear", TUNED],
        "baselines": ["mean colour", "majority"],
        "seeds": 2,
        "size": 32,
        "folds": 2,
        "bootstrap": 20,
        "figures": False,
        "out": root / out,
    }
    return EvaluateConfig.model_validate(given | changes)


class StoppedError(Exception):
    """In place of a signal."""


def after(calls: int) -> Callable[..., object]:
    """`Finetune.predict` that stops at the call after so many."""
    predict, made = Finetune.predict, []

    def stopping(self: Finetune, problem: Problem) -> object:
        if len(made) == calls:
            raise StoppedError
        made.append(1)
        return predict(self, problem)

    return stopping


def files(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


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
    from trocar.downstream.bench import make_bench
    from trocar.downstream.datasets import open_dataset
    from trocar.downstream.datasets.base import DatasetOptions
    from trocar.downstream.encoder import Encoder
    from trocar.downstream.frames import FrameCache
    from trocar.downstream.runs import _nothing

    data = open_dataset(root / "data", None, DatasetOptions())
    bench = make_bench("phase", data, settings(root, "none"))
    return bench.problem(bench.folds[0], Encoder(FrameCache(data, root / "cache"), 32, None, _nothing), 0)


def key(problem: Problem, protocol: Protocol | None = None, remap: str = "") -> str:
    protocol = protocol or KNN()
    return finished._key(protocol.name, protocol.model_dump_json(exclude={"title"}), problem, remap)


def test_whatever_a_prediction_follows_from_is_in_its_key(problem: Problem) -> None:
    train, encoder, space = problem.train, problem.encoder, problem.space
    other_labels = replace(train, targets=train.targets[::-1].copy())
    changed = {
        "protocol": key(problem, Finetune()),
        "setting": key(problem, KNN(neighbours=3)),
        "remap": key(problem, remap="x"),
        "seed": key(replace(problem, seed=1)),
        "labels": key(replace(problem, train=other_labels)),
        "validation": key(replace(problem, val=train)),
        "test frames": key(replace(problem, test=replace(problem.test, rows=problem.test.rows[1:]))),
        "times": key(replace(problem, time_s=problem.time_s + 1)),
        "classes": key(replace(problem, space=replace(space, classes=space.classes[::-1]))),
        "size": key(replace(problem, encoder=replace(encoder, size=64))),
        "weights": key(
            replace(problem, encoder=replace(encoder, plain=lambda frames: np.zeros((len(frames.data), 1))))
        ),
    }
    with patch.object(finished, "_code", lambda: "other sources"):
        changed["code"] = key(problem)
    assert len({key(problem), *changed.values()}) == 1 + len(changed)


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
        made, segment = [], Segmentation.segment
        with patch.object(Segmentation, "segment", lambda *words: (made.append(1), segment(*words))[1]):
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


GRU = {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 8}, "epochs": 2}


def two_stages(root: Path, out: str, **changes: object) -> EvaluateConfig:
    """Fine-tuning, and two temporal heads that begin with it."""
    recipe = {name: value for name, value in TUNED.items() if name != "name"}
    heads = [{**GRU, "finetune": recipe}, {**GRU, "finetune": recipe, "title": "longer", "epochs": 3}]
    words = {"task": ["phase"], "baselines": [], "seeds": 1, "protocol": [TUNED, *heads]}
    return settings(root, out, **words | changes)


def files_of_two_stages(root: Path) -> dict[str, bytes]:
    evaluate(two_stages(root, "two-stages"))
    return files(root / "two-stages")


def fitted(config: EvaluateConfig) -> int:
    """How many networks an evaluation trains."""
    made, fit = [], Trainer.fit
    with patch.object(Trainer, "fit", lambda *words: (made.append(1), fit(*words))[1]):
        evaluate(config)
    return len(made)


def test_protocols_that_begin_with_the_same_fine_tuning_share_its_network_and_then_let_it_go(root: Path) -> None:
    folds, each = 2, 3  # protocols
    assert fitted(two_stages(root, "shared")) == folds * 2  # of each the epoch is found on held-out cases first
    assert not list((root / "shared" / FOLDER).glob(f"*{NETWORK}"))
    assert len(list((root / "shared" / FOLDER).iterdir())) == folds * each
    apart = two_stages(root, "apart", cache=root / "cache").model_copy(update={"out": None})
    assert fitted(apart) == folds * each * 2
    assert files_of_two_stages(root) == files(root / "shared")
    found = {row.protocol: row.values for row in evaluate(apart).rows}
    rows = json.loads((root / "shared/results.json").read_text())["rows"]
    assert found == {
        row["protocol"]: {name: metric["values"] for name, metric in row["metrics"].items()} for row in rows
    }


def test_killed_in_the_second_stage_it_does_not_fine_tune_again(root: Path) -> None:
    config = two_stages(root, "second", protocol=two_stages(root, "second").protocol[1:])
    stopping = patch("trocar.downstream.protocols.temporal.fit_temporal", side_effect=StoppedError)
    with stopping, pytest.raises(StoppedError):
        evaluate(config)
    folder = root / "second" / FOLDER
    assert len(list(folder.glob(f"*{NETWORK}"))) == 1
    old = [folder / f"of-an-earlier-commit{NETWORK}", folder / f".half-written{NETWORK}.0123.tmp"]
    for path in old:
        path.touch()
        os.utime(path, (1, 1))
    assert fitted(config) == 2  # of the other fold: the search and the training
    assert not [path for path in folder.iterdir() if NETWORK in path.name]
    evaluate(two_stages(root, "first", protocol=config.protocol))
    assert files(root / "second") == files(root / "first")


def test_a_damaged_network_is_told_and_trained_again(root: Path) -> None:
    stopping = patch("trocar.downstream.protocols.temporal.fit_temporal", side_effect=StoppedError)
    with stopping, pytest.raises(StoppedError):
        evaluate(two_stages(root, "damaged-network"))
    network = sorted((root / "damaged-network" / FOLDER).glob(f"*{NETWORK}"))[0]
    whole = bytearray(network.read_bytes())
    whole[len(whole) // 2] ^= 1
    network.write_bytes(whole)
    said: list[str] = []
    evaluate(two_stages(root, "damaged-network"), said.append)
    assert said[-1] == f"  1 damaged files in {root / 'damaged-network' / FOLDER}, made again"
    assert files(root / "damaged-network") == files_of_two_stages(root)


def test_a_network_is_kept_only_while_a_protocol_that_goes_on_from_it_is_to_come(root: Path) -> None:
    most: list[int] = []
    folder = root / "alone" / FOLDER

    def counted(path: Path, solution: Solution) -> None:
        write_solution(path, solution)
        most.append(len(list(folder.glob(f"*{NETWORK}"))))

    with patch.object(finished, "write_solution", counted):
        evaluate(two_stages(root, "alone", protocol=two_stages(root, "alone").protocol[1:2]))
        assert max(most) == 1  # of two folds: each is dropped when its head is done
        most.clear()
        evaluate(two_stages(root, "alone", protocol=[TUNED], task=["phase", "phase+tools"]))
        assert max(most) == 0


def test_without_room_for_networks_every_protocol_trains_its_own_and_the_user_is_told(root: Path) -> None:
    def full(path: Path, solution: Solution) -> None:
        if path.name.endswith(NETWORK):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_solution(path, solution)

    said: list[str] = []
    with patch.object(finished, "write_solution", full):
        evaluate(two_stages(root, "no-room"), said.append)
    assert files(root / "no-room") == files_of_two_stages(root)
    # two folds, three protocols
    assert said[-1] == f"  6 fine-tuned networks could not be kept in {root / 'no-room' / FOLDER}: trained per protocol"
