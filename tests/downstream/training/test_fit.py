"""The training engine: order, schedule, which epoch is kept, when it stops, what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trocar.downstream.training import fit as engine
from trocar.downstream.training.fit import FitRecipe, Training, epoch_batches, fit, parameter_groups, rate
from trocar.errors import TrocarError

STEPS = 3


def training(recipe: FitRecipe | None = None, scores: Iterable[float] | None = None, **changes: Any) -> Training[int]:
    """One weight that every step moves towards 0, with dropout; its loss is the weight's square."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Dropout(0.5))
    with torch.no_grad():
        network[0].weight.fill_(4.0)  # type: ignore[union-attr,operator]
    told = None if scores is None else iter(scores)

    def loss(batch: int) -> Tensor:
        return network(torch.ones(8, 1)).square().mean()

    return Training(
        name="toy",
        network=network,
        groups=parameter_groups(network, None, weight_decay=0.0),
        recipe=recipe or FitRecipe(lr=0.1, epochs=4),
        seed=0,
        device="cpu",
        steps=STEPS,
        batches=lambda epoch: range(STEPS),
        loss=loss,
        validate=None if told is None else lambda: next(told),
    )


def weight(found: Training[int]) -> float:
    return next(found.network.parameters()).item()


def test_the_first_of_the_best_epochs_is_kept_and_training_stops_after_the_patience() -> None:
    seen: list[float] = []
    given = training(FitRecipe(lr=0.1, epochs=9, patience=2), [0.3, 0.6, 0.6, float("nan"), 0.9])
    judge = given.validate
    assert judge is not None

    def validate() -> float:
        seen.append(weight(given))
        return judge()

    history = fit(replace(given, validate=validate))
    assert (history.epoch, history.validation[:3], len(history.loss)) == (2, [0.3, 0.6, 0.6], 4)
    assert weight(given) == seen[1] != seen[3]
    assert not given.network.training


def test_without_validation_the_last_epoch_is_kept_and_the_schedule_is_that_of_all_epochs() -> None:
    whole, cut = training(), training()
    long, short = fit(whole), fit(replace(cut, last=2))
    assert (long.epoch, short.epoch) == (4, 2)
    assert short.loss == long.loss[:2]
    assert long.validation == []


def test_only_the_part_that_changes_is_kept_and_the_rest_is_let_be() -> None:
    given = training(scores=[0.5, 0.1, 0.1, 0.1])
    other = nn.Linear(2, 2)
    network = nn.ModuleList([given.network, other])
    history = fit(replace(given, network=network, part=given.network))
    assert history.epoch == 1


def test_a_run_follows_from_its_seed_and_leaves_the_random_numbers_alone() -> None:
    given = training()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = fit(given).loss
    assert torch.equal(torch.rand(2), expected)
    assert fit(training()).loss == first
    assert fit(replace(training(), seed=1)).loss != first


def test_dropout_of_an_epoch_does_not_depend_on_what_validation_drew() -> None:
    def drawing() -> float:
        torch.rand(7)
        return 1.0

    plain, drawn = training(scores=[1.0] * 4), training()
    assert fit(plain).loss == fit(replace(drawn, validate=drawing)).loss


def test_a_loss_that_is_not_finite_names_training_epoch_and_step() -> None:
    def diverging() -> Training[int]:
        given = training()
        return replace(given, loss=lambda batch: given.loss(batch) * (float("inf") if batch == 1 else 1.0))

    with pytest.raises(TrocarError, match="toy: the loss of epoch 1, step 1 is inf; use a smaller lr"):
        fit(replace(diverging(), step_name=lambda epoch, step: f"step {step}"))
    with pytest.raises(TrocarError, match="toy: the loss of epoch 1 is inf; use a smaller lr"):
        fit(diverging())


def test_weights_that_are_not_finite_are_refused_although_every_loss_was() -> None:
    given = training(FitRecipe(lr=float("inf"), epochs=1))
    with pytest.raises(TrocarError, match=r"toy \(use a smaller lr\): weights that are not finite"):
        fit(replace(given, steps=1, batches=lambda epoch: [0]))


def test_a_validation_that_never_has_a_score_is_refused() -> None:
    given = training(scores=[float("nan")] * 4)
    asked = r"toy: the validation score is NaN in every epoch: .* to score\? Do without$"
    with pytest.raises(TrocarError, match=asked):
        fit(replace(given, remedies=engine.Remedies(unscored="Do without")))


def test_an_epoch_without_a_score_is_never_kept() -> None:
    nan = float("nan")
    assert fit(training(scores=[nan, 0.2, nan, 0.1])).epoch == 2


def test_the_gradient_is_clipped_to_the_norm() -> None:
    given = training(FitRecipe(lr=0.1, epochs=1, clip=0.25))
    fit(given)
    (parameter,) = given.network.parameters()
    assert parameter.grad is not None
    assert float(parameter.grad.norm()) <= 0.25 + 1e-6


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_groups_have_their_share_of_the_learning_rate_of_the_step(optimizer: Any, kind: Callable[..., Any]) -> None:
    given = training(FitRecipe(lr=0.2, epochs=4, warmup=0.25, optimizer=optimizer))
    given.groups[0]["lr_scale"] = 0.5
    made = engine.make_optimizer(given)
    assert type(made) is kind
    for step in range(4):
        engine.take_step(given, made, 0, step)
        assert made.param_groups[0]["lr"] == pytest.approx(0.2 * 0.5 * rate(step, 12, 0.25))


def test_the_learning_rate_rises_to_one_and_falls_to_nothing_or_stays() -> None:
    factors = [rate(step, 100, 0.1) for step in range(100)]
    assert factors[:2] == pytest.approx([1 / 11, 2 / 11])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert [rate(step, 10, 0, cosine=False) for step in range(10)] == [1.0] * 10


def test_an_epoch_sees_every_row_once_in_batches_of_nearly_one_size() -> None:
    rows = np.arange(100, 121)
    parts = epoch_batches(rows, 8, seed=0, epoch=0)
    assert sorted(np.concatenate(parts)) == rows.tolist()
    assert [len(part) for part in parts] == [7, 7, 7]
    assert [p.tolist() for p in parts] == [p.tolist() for p in epoch_batches(rows, 8, seed=0, epoch=0)]
    for other in (epoch_batches(rows, 8, seed=0, epoch=1), epoch_batches(rows, 8, seed=1, epoch=0)):
        assert [p.tolist() for p in parts] != [p.tolist() for p in other]


def test_no_batch_has_a_single_row_which_batch_norm_could_not_do_with() -> None:
    assert [part.tolist() for part in epoch_batches(np.array([7]), 16, 0, 0)] == [[7, 7]]
    parts = epoch_batches(np.arange(3), 2, seed=0, epoch=0)
    assert [len(part) for part in parts] == [2, 2]
    assert set(np.concatenate(parts)) == {0, 1, 2}
