"""The temporal protocols: which frames and labels a head gets, and of which backbone the features are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from downstream_factory import make_folder
from temporal_factory import before_and_after, best_of_single_frames
from training_factory import colour_problem, make_encoder, open_bench, with_validation

from trocar.downstream.features.feature_cache import extract
from trocar.downstream.labels import LabelSpace
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols import get_protocol, temporal
from trocar.downstream.protocols.base import Goal, Problem
from trocar.downstream.protocols.temporal import Temporal, TemporalFrozen
from trocar.downstream.tasks import get_task
from trocar.downstream.temporal.head import Sequence
from trocar.downstream.temporal.train import fit_temporal
from trocar.errors import ConfigError

HEAD = {"name": "mstcn", "stages": 1, "layers": 3, "maps": 16, "dropout": 0.0}
FINETUNE = {"epochs": 2, "batch": 8, "lr": 2e-3, "layer_decay": 0.9, "warmup": 0, "augment": None}


def protocol(name: str = "temporal_frozen", **settings: Any) -> Temporal:
    found = get_protocol({"name": name, "head": HEAD, "epochs": 3, **settings})
    assert isinstance(found, Temporal)
    return found


@dataclass(frozen=True)
class Given:
    """An encoder whose features are given."""

    features: np.ndarray
    device: str = "cpu"


def ambiguous(train: int = 3, val: int = 0, test: int = 1) -> tuple[Problem, np.ndarray]:
    """Operations whose single frames do not tell the phase, and the phase of every row."""
    sequences = before_and_after(train + val + test)
    features = np.concatenate([s.features for s in sequences])
    truth = np.concatenate([s.targets for s in sequences])
    case = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])
    time_s = np.concatenate([s.time_s for s in sequences])

    def part(first: int, last: int) -> Ints:
        return np.flatnonzero((case >= first) & (case < last))

    tested = part(train + val, len(sequences))
    targets = truth.copy()
    targets[tested] = -1
    problem = Problem(
        goals=(Goal(get_task("phase"), LabelSpace("phase", "multiclass", ("a", "b", "c")), targets),),
        encoder=Given(features),  # type: ignore[arg-type]
        train=part(0, train),
        val=part(train, train + val) if val else None,
        test=tested,
        case=case,
        time_s=time_s,
    )
    return problem, truth


class Watched:
    """`fit_temporal`, and what it was called with."""

    def __init__(self) -> None:
        self.train: list[Sequence] = []
        self.validation: list[Sequence] | None = None
        self.select = ""

    def __call__(self, config: Any, train: Any, validation: Any, *arguments: Any) -> Any:
        self.train, self.validation, self.select = train, validation, config.select
        return fit_temporal(config, train, validation, *arguments)


def watch(recipe: Temporal, problem: Problem) -> tuple[Watched, Any]:
    watched = Watched()
    with patch.object(temporal, "fit_temporal", watched):
        return watched, recipe.predict(problem)


def test_a_head_that_remembers_names_what_single_frames_do_not_tell() -> None:
    problem, truth = ambiguous(train=5, test=2)
    found = protocol(head={**HEAD, "layers": 5}, epochs=60, lr=5e-3).predict(problem)
    rows = problem.test
    limit = best_of_single_frames([Sequence("all", problem.encoder.features[rows], truth[rows], problem.time_s[rows])])
    assert found.scores.shape == (len(rows), 3)
    assert found.scores.sum(1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert (found.scores.argmax(1) == truth[rows]).mean() > limit + 0.1


def test_frames_without_a_label_stay_in_the_sequence_as_context() -> None:
    problem, truth = ambiguous(val=1)
    assert problem.val is not None
    sparse = replace(problem, train=problem.train[::3], val=problem.val[::2])
    watched, _ = watch(protocol(), sparse)
    assert watched.validation is not None
    for number, sequence in enumerate(watched.train):
        rows = np.flatnonzero(problem.case == number)
        labelled = np.isin(rows, sparse.train)
        assert len(sequence) == len(rows)
        assert (sequence.features == problem.encoder.features[rows]).all()
        assert (sequence.targets == np.where(labelled, truth[rows], -1)).all()
        assert 0 < labelled.sum() < len(rows)
    (held,) = watched.validation
    assert len(held) == (problem.case == 3).sum()


def test_test_frames_are_predicted_with_their_unlabelled_neighbours_and_come_back_in_order() -> None:
    problem, _ = ambiguous(test=3)
    whole = protocol().predict(problem).scores
    some = np.array([0, 4, 5, len(problem.test) - 1])
    few = replace(problem, test=problem.test[some])
    assert (protocol().predict(few).scores == whole[some]).all()


def test_each_case_is_predicted_from_its_own_frames() -> None:
    problem, _ = ambiguous(test=2)
    whole = protocol().predict(problem).scores
    last = problem.case[problem.test] == problem.case.max()
    other = problem.encoder.features.copy()
    other[problem.test[last]] += 5
    changed = protocol().predict(replace(problem, encoder=Given(other))).scores  # type: ignore[arg-type]
    assert (changed[~last] == whole[~last]).all()
    assert not np.allclose(changed[last], whole[last])


@pytest.mark.parametrize("name", ["temporal_frozen", "temporal_finetuned"])
def test_labels_of_test_cases_change_no_score(tmp_path: Path, name: str) -> None:
    bench = open_bench(make_folder(tmp_path / "data"))
    encoder, fold = make_encoder(bench, tmp_path), bench.folds[0]
    settings = {"finetune": {**FINETUNE, "epochs": 1, "select": "fixed_epochs"}} if "finetuned" in name else {}
    recipe = protocol(name, epochs=1, **settings)
    clean = recipe.predict(bench.problem(fold, encoder, 0)).scores
    bench.data.frames.loc[fold.test, "phase"] = 1 - bench.data.frames.loc[fold.test, "phase"]
    poisoned = recipe.predict(bench.problem(fold, encoder, 0)).scores
    assert (poisoned == clean).all()
    bench.data.frames.loc[fold.train, "phase"] = 1 - bench.data.frames.loc[fold.train, "phase"]
    assert not (recipe.predict(bench.problem(fold, encoder, 0)).scores == clean).all()


def test_a_training_case_has_no_label_where_the_table_has_none(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    table = pd.read_csv(root / "frames.csv").astype({"phase": "Int64"})
    table.loc[table["time_s"] % 2 == 1, "phase"] = pd.NA
    table.to_csv(root / "frames.csv", index=False)
    bench = open_bench(root)
    watched, found = watch(protocol(), bench.problem(bench.folds[0], make_encoder(bench, tmp_path), 0))
    assert [len(sequence) for sequence in watched.train] == [12, 12]
    assert [(sequence.targets >= 0).sum() for sequence in watched.train] == [6, 6]
    assert len(found.scores) == len(bench.folds[0].test) == 12


def test_several_labels_a_frame_are_learned_too(tmp_path: Path) -> None:
    bench = open_bench(make_folder(tmp_path / "data"), "tools")
    problem = bench.problem(bench.folds[0], make_encoder(bench, tmp_path), 0)
    watched, found = watch(protocol(), problem)
    assert watched.train[0].targets.shape == (12, 1)
    assert found.scores.shape == (24, 1)
    assert ((found.scores > 0) & (found.scores < 1)).all()


def test_the_epoch_is_chosen_by_the_headline_of_the_labelled_validation_frames() -> None:
    problem, _ = ambiguous(val=2)
    assert problem.val is not None
    problem = replace(problem, val=problem.val[::2])
    told, seen = iter([0.2, 0.9, 0.4]), []

    def score(of: Problem, rows: Ints, scores: Floats) -> float:
        assert rows is problem.val
        seen.append(scores.shape)
        return next(told)

    with patch.object(temporal, "headline", score):
        chosen = protocol().predict(problem)
    assert problem.val is not None
    assert seen == [(len(problem.val), 3)] * 3
    assert (chosen.detail["epoch"], chosen.detail["validation"]) == (2, [0.2, 0.9, 0.4])
    assert len(chosen.detail["losses"]) == 3
    with patch.object(temporal, "headline", lambda *_: 0.5):
        first = protocol().predict(problem)
    assert first.detail["epoch"] == 1
    assert not (first.scores == chosen.scores).all()


def test_without_validation_cases_all_epochs_are_trained_and_the_last_is_kept() -> None:
    problem, _ = ambiguous()
    for settings in ({}, {"patience": 1}):
        watched, found = watch(protocol(**settings), problem)
        assert (watched.validation, watched.select) == (None, "fixed_epochs")
        assert (found.detail["epoch"], found.detail["select"], found.detail["validation"]) == (3, "fixed_epochs", [])


def test_validation_cases_are_never_trained_on() -> None:
    problem, _ = ambiguous(val=1)
    watched, _ = watch(protocol(), problem)
    assert [sequence.case for sequence in watched.train] == ["0", "1", "2"]


def test_the_head_sees_features_of_the_fine_tuned_network_and_not_of_the_frozen_one(tmp_path: Path) -> None:
    problem = with_validation(colour_problem(tmp_path))
    recipe = protocol("temporal_finetuned", finetune=FINETUNE)
    networks = []
    original = temporal.finetuned

    def kept(*arguments: Any) -> Any:
        networks.append(original(*arguments))
        return networks[-1]

    with patch.object(temporal, "finetuned", kept):
        watched, found = watch(recipe, problem)
    (tuned,) = networks
    rows = problem.sequences(problem.train)[0]
    expected = extract(tuned.network.backbone, problem.encoder.pixels, tuned.trainer.images.preprocessing, rows)
    assert watched.train[0].features == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(watched.train[0].features, problem.encoder.features[rows], atol=1e-2)
    assert found.detail["finetune"]["epoch"] in (1, 2)
    assert found.detail["finetune"]["chosen_on"] == "validation cases"
    frozen, _ = watch(protocol(), problem)
    assert (frozen.train[0].features == problem.encoder.features[rows]).all()


def test_a_run_follows_from_its_seed_and_leaves_the_random_numbers_alone() -> None:
    problem, _ = ambiguous()
    torch.manual_seed(3)
    first = protocol().predict(problem).scores
    after = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), after)
    assert (protocol().predict(problem).scores == first).all()
    assert not (protocol().predict(replace(problem, seed=1)).scores == first).all()


def test_the_label_says_which_head_and_whether_it_looks_ahead() -> None:
    assert TemporalFrozen().label == "temporal_frozen mstcn, online"
    assert protocol(head={"name": "asformer"}).label == "temporal_frozen asformer, offline"
    assert protocol("temporal_finetuned", head={"name": "gru", "causal": False}).label == (
        "temporal_finetuned gru, offline"
    )
    assert protocol(title="TeCNO, twice as wide").label == "TeCNO, twice as wide, online"


def test_a_later_frame_changes_no_earlier_prediction_of_an_online_head_and_detail_says_online() -> None:
    problem, _ = ambiguous()
    changed = problem.encoder.features.copy()
    changed[-5:] += 3
    other = replace(problem, encoder=Given(changed))  # type: ignore[arg-type]
    for head, online in ((HEAD, True), ({**HEAD, "causal": False}, False)):
        before, after = (protocol(head=head).predict(one) for one in (problem, other))
        assert before.detail["online"] is online
        assert np.allclose(before.scores[:-5], after.scores[:-5], atol=1e-6) == online


def test_wrong_settings_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="mstcn"):
        protocol(head={"name": "mstc"})
    with pytest.raises(ConfigError, match="did you mean 'patience'"):
        protocol(patiense=3)
