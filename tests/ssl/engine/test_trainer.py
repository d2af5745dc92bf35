"""The loop with a one-layer method: skipping, accumulation, stopping, noise."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from trainer_hooks import Recorder

from trocar.data.loading.batch import Batch
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.ssl.engine.health import Speed
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.optimizer import OptimConfig, Schedule, build_optimizer
from trocar.ssl.engine.trainer import TrainConfig, Trainer
from trocar.ssl.ranks.distributed import World

RECIPE = ViewRecipe(groups={"global": ViewGroup(count=1, size=8, scale=(0.5, 1.0))})
PARAMS = ViewPlan(RECIPE, 0).params(0, np.arange(4), np.full(4, 8), np.full(4, 8))


class Toy(Method):
    """Predicts each image's mean; with batch norm and noise, so that both are under test."""

    def __init__(self, noise=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 1))
        self.noise, self.updates, self.draws = noise, [], []

    def recipe(self):
        return RECIPE

    def loss(self, views, progress):
        x = views["global"][:, 0]
        if self.noise:
            self.draws.append(torch.rand(()).item())
        return {"loss": (self.net(x)[:, 0] - x.mean((1, 2, 3))).square().mean()}

    def after_step(self, progress):
        self.updates.append(progress.step)
        return {}

    @property
    def backbones(self):
        return [self.net]

    @property
    def exported(self):
        return self.net

    def embed(self, views):
        return views["global"][:, 0].flatten(1)[:, :3]


def batches(count, bad=()):
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 1, 3, 8, 8, generator=generator)
        if step in bad:
            x[0, 0, 0, 0, 0] = math.nan
        yield Batch(step, np.arange(4), {"global": x}, PARAMS)


def train(method=None, steps=4, bad=(), hooks=None, data=None, **config):
    method = method or Toy()
    optim = OptimConfig(warmup="0 steps", lr=0.1, lr_batch=4, clip=None)
    train_config = TrainConfig(batch=4, steps=steps, **config)
    hooks = hooks or Recorder()
    trainer = Trainer(
        method,
        build_optimizer(method, optim),
        Schedule(optim, 4, steps, steps),
        train_config,
        optim,
        seed=0,
        world=World(),
        device=torch.device("cpu"),
        hooks=hooks,
    )
    trainer.fit(batches(steps, bad) if data is None else data, steps, steps)
    return method, hooks, trainer


def test_a_non_finite_step_is_skipped_counted_and_leaves_no_trace():
    method, hooks, trainer = train(steps=3, bad={1})
    assert method.updates == [0, 2]
    assert trainer.state.skipped == 1
    assert [row["skipped"] for row in hooks.rows] == [0, 1, 1]
    assert math.isnan(hooks.rows[1]["loss"])
    assert all(torch.isfinite(t).all() for t in method.state_dict().values())
    # the statistics of batch norm are those of the two accepted steps
    assert int(method.net[1].num_batches_tracked) == 2


def test_too_many_skipped_steps_end_the_run():
    with pytest.raises(RuntimeError, match="3 steps had a non-finite loss"):
        train(steps=6, bad={0, 1, 2, 3}, max_skipped=2)


def test_a_run_of_which_no_step_counted_has_not_finished_and_its_end_is_not_saved():
    hooks = Recorder()
    with pytest.raises(RuntimeError, match="none of the 3 steps counted"):
        train(steps=3, bad={0, 1, 2}, hooks=hooks)
    assert hooks.saved == [1, 2]
    assert train(steps=3, bad={0, 1})[1].saved == [1, 2, 3]


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    whole, parts = (Toy().eval() for _ in range(2))
    for toy in (whole, parts):
        toy.net[1] = nn.Identity()  # batch norm would see other batches
    a, _, _ = train(whole, steps=3)
    b, _, _ = train(parts, steps=3, accumulate=4)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-6)


def test_noise_inside_the_model_follows_from_the_step_alone():
    first, _, _ = train(Toy(noise=True), steps=4)
    torch.manual_seed(123)
    second, _, _ = train(Toy(noise=True), steps=4)
    assert first.draws == second.draws
    assert len(set(first.draws)) == 4


def test_a_stop_is_answered_at_the_end_of_a_step():
    hooks = Recorder(stop_at=2)
    with pytest.raises(SystemExit) as end:
        train(steps=6, hooks=hooks)
    assert end.value.code == 3
    assert hooks.saved == [1, 2]


def test_every_step_is_logged_with_health_speed_and_schedule():
    _, hooks, _ = train(steps=2)
    assert {"loss", "grad_norm", "lr", "weight_decay", "feature_std", "rankme", "images_per_s", "data_wait"} <= set(
        hooks.rows[0]
    )
    assert [row["step"] for row in hooks.rows] == [0, 1]
    assert hooks.rows[0]["lr"] == pytest.approx(0.1)


def test_speed_is_that_of_all_steps_since_the_last_log_without_what_the_log_itself_takes(monkeypatch):
    """A batch takes 1 s to come, a step 2 s, a log 100 s: 4 images in 3 s, whichever step is logged."""
    now = [0.0]
    monkeypatch.setattr("trocar.ssl.engine.trainer.Speed", partial(Speed, clock=lambda: now[0]))

    def takes(seconds, function):
        def slow(*arguments, **named):
            now[0] += seconds
            return function(*arguments, **named)

        return slow

    class SlowData:
        def __iter__(self):
            for batch in batches(7):
                now[0] += 1
                yield batch

    monkeypatch.setattr(Trainer, "_step", takes(2, Trainer._step))
    monkeypatch.setattr(Trainer, "_health", takes(60, Trainer._health))
    monkeypatch.setattr(Recorder, "logged", takes(40, Recorder.logged))
    _, hooks, _ = train(steps=7, hooks=Recorder(log_every=3), data=SlowData())
    assert [row["step"] for row in hooks.rows] == [0, 3, 6]
    assert [row["images_per_s"] for row in hooks.rows] == pytest.approx([4 / 3] * 3)
    assert [row["data_wait"] for row in hooks.rows] == pytest.approx([1 / 3] * 3)
    assert all("device_wait" not in row and "peak_memory_mib" not in row for row in hooks.rows)
