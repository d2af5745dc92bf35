"""Fine-tuning: backbone and heads are trained together on the labelled frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from trocar.backbones.lora import add_lora
from trocar.backbones.preprocess import describe_backbone, fit_input_size
from trocar.backbones.weights_file import require_finite
from trocar.core.random import torch_seeded
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import PROTOCOLS, Goal, Prediction, Problem, Protocol, Solution, headline
from trocar.downstream.training.batches import NetworkImages
from trocar.downstream.training.finetuning import Classifier, FinetuneRecipe, FinetuneTrainer
from trocar.downstream.training.fit import TrainingHistory

EVERY = 5


@PROTOCOLS.register
class Finetune(Protocol, FinetuneRecipe):
    """See `FinetuneRecipe` for the settings and where they come from.

    Several tasks are learned together as in EndoNet (see `Classifier`): the loss is the sum of theirs, a frame without
    a label of one of them counts for the others, and the epoch is chosen by the leading one. Batch norm with few frames
    of few operations in a batch learns statistics that the test frames do not have: `batch_norm: frozen` or a backbone
    with layer norm is the safe choice for small budgets.
    """

    name: Literal["finetune"] = "finetune"
    trains_network: ClassVar[bool] = True
    joins_tasks: ClassVar[bool] = True
    random_start: ClassVar[bool] = True

    def fine_tuning(self) -> FinetuneRecipe:
        """Its settings but for its names."""
        return FinetuneRecipe.model_validate(self.model_dump(include=set(FinetuneRecipe.model_fields)))

    def predict(self, problem: Problem) -> Prediction:
        """Train, and give the probabilities of every task on the test frames."""
        found = finetuned(problem, self.fine_tuning())
        scores = found.predict(problem.test)
        return Prediction(scores.pop(problem.task.name), found.detail, scores)


@dataclass(frozen=True)
class Finetuned:
    """A trained network, in eval mode on the encoder's device. `network.backbone` is the fine-tuned backbone, from
    which `feature_cache.extract` takes features; `detail` says what was chosen, as JSON values.
    """

    trainer: FinetuneTrainer
    history: TrainingHistory
    detail: Mapping[str, Any]

    @property
    def network(self) -> Classifier:
        """The backbone with its heads."""
        return self.trainer.network

    def predict(self, rows: Ints) -> dict[str, Floats]:
        """Probabilities float64 [n, K] of rows of the table, by task name."""
        return self.trainer.predict(rows)


def finetuned(problem: Problem, recipe: FinetuneRecipe) -> Finetuned:
    """The problem's backbone trained on its labelled frames, now or by a protocol before.

    The result follows from the problem's seed, labels and pixels. Raises ConfigError for settings that do not fit the
    classes, TrocarError for too few frames, or a loss or weights that are not finite.
    """
    goals = tuple(_rounded(goal) for goal in problem.goals) if recipe.labels == "rounded" else problem.goals
    solution = problem.kept(recipe, lambda: _solution(_trained(problem, recipe, goals)))
    trainer = _trainer(problem, recipe, goals)
    weights = {name: torch.from_numpy(value) for name, value in solution.arrays.items()}
    require_finite(weights, f"{problem.encoder.name}, fine-tuned (use a smaller lr)")
    trainer.network.load_state_dict(weights)
    trainer.network.eval()
    return Finetuned(trainer, TrainingHistory(**solution.words["history"]), solution.words["detail"])


def _solution(found: Finetuned) -> Solution:
    weights = {name: value.cpu().numpy() for name, value in found.network.state_dict().items()}
    return Solution(weights, {"history": asdict(found.history), "detail": dict(found.detail)})


def _trained(problem: Problem, recipe: FinetuneRecipe, goals: tuple[Goal, ...]) -> Finetuned:
    if recipe.select == "fixed_epochs" or (problem.val is None and recipe.inner == "fixed_epochs"):
        return _train(problem, recipe, goals, problem.train, None, None, {"chosen_on": None})
    if problem.val is not None:
        return _train(problem, recipe, goals, problem.train, problem.val, None, {"chosen_on": "validation cases"})
    parts = _hold_out(problem)
    if parts is None:
        return _train(problem, recipe, goals, problem.train, None, None, {"chosen_on": None})
    search = _train(problem, recipe, goals, *parts, None, {}).history
    about = {"chosen_on": f"{len(np.unique(problem.case[parts[1]]))} held-out training cases", "search": asdict(search)}
    return _train(problem, recipe, goals, problem.train, None, search.epoch, about)


def _train(
    problem: Problem,
    recipe: FinetuneRecipe,
    goals: tuple[Goal, ...],
    train: Ints,
    val: Ints | None,
    last: int | None,
    about: Mapping[str, Any],
) -> Finetuned:
    trainer = _trainer(problem, recipe, goals)
    # Where tasks are learned together, not every validation frame carries a label of the leading one.
    scored = train[:0] if val is None else problem.goals[0].known(val)
    history = trainer.fit(train, scored, lambda scores: headline(problem, scored, scores), last)
    return Finetuned(trainer, history, {**asdict(history), **about, "precision": trainer.precision})


def _trainer(problem: Problem, recipe: FinetuneRecipe, goals: tuple[Goal, ...]) -> FinetuneTrainer:
    """With the network as it is before the first step."""
    encoder = problem.encoder
    assert encoder.network is not None
    backbone = fit_input_size(encoder.network(), encoder.size)
    if recipe.lora is not None:
        add_lora(backbone, recipe.lora, seed=problem.seed, size=(encoder.size, encoder.size))
    precision = encoder.computes_in(recipe.precision, "finetune: precision")
    preprocessing = describe_backbone(backbone)
    images = NetworkImages(
        encoder.pixels, preprocessing, recipe.augment, problem.seed, encoder.device, workers=encoder.workers
    )
    with torch_seeded(problem.seed, "heads", device=encoder.device):
        network = Classifier(backbone, goals, encoder.size).to(encoder.device)
    return FinetuneTrainer(network, goals, images, recipe, problem.seed, precision, problem.called("fine-tuning"))


def _rounded(goal: Goal) -> Goal:
    """With 0 and 1 in place of the mean of several annotators, as the scoring has it."""
    return replace(goal, targets=goal.targets.round()) if goal.space.soft else goal


def _hold_out(problem: Problem) -> tuple[Ints, Ints] | None:
    """Training rows to (fit on, hold out); None for a single case."""
    case = problem.case[problem.train]
    cases = np.unique(case)
    if len(cases) < 2:
        return None
    held = np.isin(case, cases[EVERY - 1 :: EVERY] if len(cases) >= EVERY else cases[-1:])
    return problem.train[~held], problem.train[held]
