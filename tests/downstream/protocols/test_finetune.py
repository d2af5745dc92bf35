"""Fine-tuning: what it learns from, what it must not see, and which epoch it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from downstream_factory import make_folder
from training_factory import colour_problem, make_encoder, open_bench, soft_problem, truth, with_validation

from trocar.backbones.preprocess import describe_backbone
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.features.feature_cache import extract
from trocar.downstream.predictions.prediction_file import RunIndex
from trocar.downstream.protocols import finetune, get_protocol
from trocar.downstream.protocols.base import Problem, Solution
from trocar.downstream.protocols.finetune import Finetune, finetuned
from trocar.downstream.training.finetuning import FinetuneTrainer
from trocar.errors import ConfigError, TrocarError
from trocar.jobs.evaluate import evaluate

QUICK = Finetune(epochs=2, batch=8, lr=2e-3, layer_decay=0.9, warmup=0, augment=None, select="fixed_epochs")


def test_it_is_found_by_name_with_its_settings() -> None:
    found = get_protocol({"name": "finetune", "epochs": 3, "class_weights": [3.198, 4.462, 2.795]})
    assert isinstance(found, Finetune)
    assert (found.epochs, found.class_weights) == (3, (3.198, 4.462, 2.795))
    with pytest.raises(ConfigError, match="did you mean 'layer_decay'"):
        get_protocol({"name": "finetune", "layerdecay": 0.7})


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_brightness_is_learned_far_better_than_the_constant(tmp_path: Path, architecture: str) -> None:
    problem = colour_problem(tmp_path, architecture=architecture)
    recipe = QUICK.model_copy(update={"epochs": 8, "lr": 5e-3})
    scores = recipe.predict(problem).scores
    assert scores.sum(1) == pytest.approx(np.ones(len(scores)))
    assert (scores.argmax(1) == truth(problem, problem.test)).mean() >= 0.9  # the constant has 0.5


def test_a_run_follows_from_its_seed_and_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    recipe = Finetune(epochs=1, batch=8, select="fixed_epochs")
    torch.manual_seed(11)
    first = recipe.predict(problem).scores
    after = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), after)
    assert (recipe.predict(problem).scores == first).all()
    assert not (recipe.predict(replace(problem, seed=1)).scores == first).all()


def test_labels_of_test_cases_change_no_score(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    bench = open_bench(root, "phase+tools")
    encoder, fold = make_encoder(bench, tmp_path), bench.folds[0]
    recipe = QUICK.model_copy(update={"epochs": 1})
    clean = recipe.predict(bench.problem(fold, encoder, 0))
    table = bench.data.frames
    table.loc[fold.test, "phase"] = 1 - table.loc[fold.test, "phase"]
    table.loc[fold.test, "tools/red"] = 1 - table.loc[fold.test, "tools/red"]
    poisoned = recipe.predict(bench.problem(fold, encoder, 0))
    assert (poisoned.scores == clean.scores).all()
    assert (poisoned.others["tools"] == clean.others["tools"]).all()


def test_the_first_best_validation_epoch_is_kept_and_training_stops_after_the_patience(tmp_path: Path) -> None:
    problem = with_validation(colour_problem(tmp_path))
    recipe = QUICK.model_copy(update={"epochs": 9, "select": "validation", "patience": 2})
    told, seen = iter([0.3, 0.6, 0.6, float("nan"), 0.9]), []

    def score(_: Problem, part: object, scores: np.ndarray) -> float:
        seen.append(scores)
        return next(told)

    with patch.object(finetune, "headline", score):
        found = finetuned(problem, recipe)
    assert found.detail["epoch"] == 2
    assert len(found.detail["validation"]) == len(found.detail["loss"]) == 4
    assert found.detail["chosen_on"] == "validation cases"
    assert problem.val is not None
    kept = found.predict(problem.val)["phase"]
    assert (kept == seen[1]).all()
    assert not (seen[3] == seen[1]).all()


def test_validation_and_test_frames_are_never_trained_on(tmp_path: Path) -> None:
    problem = with_validation(colour_problem(tmp_path))
    trained: list[int] = []
    original = FinetuneTrainer._cuts

    def watched(self: FinetuneTrainer, parts: list[np.ndarray], epoch: int | None) -> object:
        if epoch is not None:
            trained.extend(np.concatenate(parts).tolist())
        return original(self, parts, epoch)

    with patch.object(FinetuneTrainer, "_cuts", watched):
        QUICK.model_copy(update={"select": "validation"}).predict(problem)
    assert sorted(trained) == sorted(2 * problem.train.tolist())


def test_without_validation_cases_the_epoch_comes_from_a_held_out_training_case(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    told = iter([0.2, 0.8, 0.1])
    rows: list[int] = []

    def score(_: Problem, part: object, scores: np.ndarray) -> float:
        rows.append(len(scores))
        return next(told)

    recipe = QUICK.model_copy(update={"epochs": 3, "select": "validation"})
    with patch.object(finetune, "headline", score):
        found = finetuned(problem, recipe)
    assert rows == [12, 12, 12]
    assert found.detail["search"]["validation"] == [0.2, 0.8, 0.1]
    assert (found.detail["epoch"], len(found.detail["loss"])) == (2, 2)
    assert found.detail["chosen_on"] == "1 held-out training cases"
    # The second training has the schedule of the first, and all training cases.
    fixed = finetuned(problem, recipe.model_copy(update={"select": "fixed_epochs"})).detail["loss"]
    assert found.detail["loss"] == fixed[:2]


def test_fixed_epochs_hold_nothing_out(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    for settings in ({"select": "fixed_epochs"}, {"select": "validation", "inner": "fixed_epochs"}):
        found = finetuned(problem, QUICK.model_copy(update=settings)).detail
        assert (found["epoch"], found["validation"], found["chosen_on"]) == (2, [], None)


def test_a_single_training_case_has_nothing_to_hold_out(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    one = replace(problem, train=with_validation(problem).train)
    assert finetuned(one, QUICK.model_copy(update={"select": "validation"})).detail["epoch"] == 2


def test_soft_labels_teach_otherwise_than_rounded_ones(tmp_path: Path) -> None:
    rows = len(colour_problem(tmp_path / "a").train)
    targets = np.random.default_rng(0).choice([0, 1 / 3, 2 / 3, 1], (rows, 2))
    problem, hard = (soft_problem(tmp_path / name, values) for name, values in (("b", targets), ("c", targets.round())))
    soft = QUICK.predict(problem).detail["loss"]
    rounded = QUICK.model_copy(update={"labels": "rounded"}).predict(problem).detail["loss"]
    assert rounded == QUICK.predict(hard).detail["loss"]
    assert abs(soft[0] - rounded[0]) > 1e-4


def test_class_weights_and_bfloat16_and_frozen_norms_change_the_training(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    recipe = QUICK.model_copy(update={"epochs": 1})
    plain = recipe.predict(problem).detail["loss"][0]
    weighted = recipe.model_copy(update={"class_weights": (1.0, 9.0)}).predict(problem).detail["loss"][0]
    half = recipe.model_copy(update={"precision": "bfloat16"}).predict(problem).detail["loss"][0]
    frozen = recipe.model_copy(update={"batch_norm": "frozen"}).predict(problem).detail["loss"][0]
    assert abs(weighted - plain) > 1e-3
    assert half != plain
    assert half == pytest.approx(plain, rel=0.1)
    assert frozen != plain


def test_layer_decay_slows_the_backbone_and_not_the_head(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    start = problem.encoder.network()  # type: ignore[misc]
    moved = {}
    for decay in (1.0, 0.1):
        network = finetuned(problem, QUICK.model_copy(update={"epochs": 1, "layer_decay": decay})).network
        move = network.backbone.conv1[0].weight - start.conv1[0].weight  # type: ignore[index,union-attr]
        moved[decay] = float(move.detach().abs().mean())
    layers = sum(len(getattr(start, f"layer{i}")) for i in range(1, 5))
    # AdamW's first steps are as long as the learning rate, whatever the gradient.
    assert moved[0.1] / moved[1.0] == pytest.approx(0.1 ** (layers + 1), rel=0.5)


def test_the_fine_tuned_backbone_gives_features_of_all_frames(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    found = finetuned(problem, QUICK)
    backbone, rows = found.network.backbone, problem.sequences(problem.test)[0]
    features = extract(backbone, problem.encoder.pixels, describe_backbone(backbone), rows, batch=5)
    with torch.inference_mode():
        logits = found.network.heads["phase"](torch.from_numpy(features)).double().softmax(1)
    assert features.shape == (12, backbone.num_features)
    assert logits.numpy() == pytest.approx(found.predict(rows)["phase"], abs=1e-5)


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)
    with pytest.raises(TrocarError, match="needs at least 2 labelled training frames, there are 1"):
        QUICK.predict(replace(problem, train=problem.train[:1]))
    with pytest.raises(TrocarError, match="the loss of epoch 1 is nan; use a smaller lr"):
        QUICK.model_copy(update={"lr": 1e30}).predict(problem)
    with pytest.raises(ConfigError, match="expected 2 positive numbers"):
        QUICK.model_copy(update={"class_weights": (1.0,)}).predict(problem)


def test_phase_and_tools_are_learned_together_from_data_to_table(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", cases=2, frames=12)
    settings = {"name": "finetune", "epochs": 8, "batch": 6, "lr": 5e-3, "layer_decay": 0.9, "select": "fixed_epochs"}
    config = EvaluateConfig(
        backbone=["random:test_resnet"],
        data=root,
        task=["phase+tools"],
        protocol=[settings],
        baselines=["mean colour", "majority"],
        seeds=1,
        repeats=2,
        size=32,
        bootstrap=0,
        out=tmp_path / "out",
    )
    found = evaluate(config)
    # Plain baselines have no network to train, and the prior learns one task alone.
    rows = [(row.task, row.protocol, row.arm) for row in found.rows]
    name = "finetune, phase+tools"
    assert rows == [("phase", name, "random:test_resnet"), ("tools", name, "random:test_resnet")]
    assert found.rows[0].members == ["seed 0, start 0", "seed 0, start 1"]
    assert found.row("phase", name, "random:test_resnet").mean("accuracy@pooled") > 0.8  # the constant has 0.5
    tools = found.predictions[found.predictions["task"] == "tools"]
    assert len(tools) == 2 * 24
    assert found.rows[0].runs == [RunIndex(0, 0, 0), RunIndex(0, 0, 1)]
    assert tools.groupby(["replicate", "draw", "start"]).size().to_dict() == {(0, 0, 0): 24, (0, 0, 1): 24}
    assert set(tools["gt_labels"].map(len)) == {1}


def test_a_frozen_protocol_does_not_learn_tasks_together(tmp_path: Path) -> None:
    config = EvaluateConfig(
        data=make_folder(tmp_path / "data", cases=2, frames=2), task=["phase+tools"], protocol=["linear"]
    )
    with pytest.raises(ConfigError, match="cannot be learned by linear; those that can: finetune"):
        evaluate(config)


def test_a_kept_network_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path)

    def diverged(_: object, train: Callable[[], Solution]) -> Solution:
        made = train()
        name = next(iter(made.arrays))
        return Solution({**made.arrays, name: np.full_like(made.arrays[name], np.nan)}, made.words)

    with pytest.raises(TrocarError, match=r"fine-tuned \(use a smaller lr\): [\s\S]*NaN or infinity"):
        finetuned(replace(problem, kept=diverged), QUICK.model_copy(update={"epochs": 1}))
