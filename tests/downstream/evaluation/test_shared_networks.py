"""Protocols that begin with the same fine-tuning share its network, and no other."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from downstream_factory import make_folder
from finished_factory import TUNED, StoppedError, files, settings

from trocar.downstream.evaluation import result_cache
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.result_cache import FOLDER, NETWORK
from trocar.downstream.protocols.base import Solution, write_solution
from trocar.downstream.training.finetuning import FinetuneTrainer
from trocar.jobs.evaluate import evaluate

GRU = {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 8}, "epochs": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled frames in data/."""
    root = tmp_path_factory.mktemp("networks")
    make_folder(root / "data")
    return root


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
    made, fit = [], FinetuneTrainer.fit
    with patch.object(FinetuneTrainer, "fit", lambda *words: (made.append(1), fit(*words))[1]):
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

    with patch.object(result_cache, "write_solution", counted):
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
    with patch.object(result_cache, "write_solution", full):
        evaluate(two_stages(root, "no-room"), said.append)
    assert files(root / "no-room") == files_of_two_stages(root)
    # two folds, three protocols
    assert said[-1] == f"  6 fine-tuned networks could not be kept in {root / 'no-room' / FOLDER}: trained per protocol"
