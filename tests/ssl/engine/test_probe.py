"""What the trainer does with a probe's scores: curve, paired interval, best, patience, warning; and the cadence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm import create_model

from trocar.backbones.preprocess import Preprocessing
from trocar.data.views.recipe import ViewGroup, ViewRecipe
from trocar.ssl.engine.probe import Watch, WatchedProbe, paired_interval, undisturbed
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.probe_config import Cadence, ProbeConfig, cadence

RECIPE = ViewRecipe(groups={"global": ViewGroup(count=2, size=32, scale=(0.5, 1.0))})
NETWORK = torch.nn.Linear(1, 1)


class Planned:
    """Scores that are known beforehand."""

    name, about, identity, draws = "planned", "", "same", 3

    def __init__(self, values):
        self.values = iter(values)

    def score(self, network, shape, spread):
        value = next(self.values)
        return SimpleNamespace(value=value, draws=torch.tensor([value - 0.1, value, value + 0.1], dtype=torch.float64))


def watching(values, patience=None, said=None):
    probe = WatchedProbe(Planned(values), lambda done: done % 2 == 0)
    say = (said if said is not None else []).append
    return Watch([probe], Preprocessing(), "float32", World(), say, "planned", patience)


def test_the_interval_is_of_differences_draw_by_draw():
    start = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    low, high = paired_interval(start + 0.25, start)
    assert (low, high) == pytest.approx((0.25, 0.25))  # of the two marginal spreads nothing is left
    assert paired_interval(torch.zeros(0), torch.zeros(0)) == (None, None)


def test_best_is_the_first_of_the_highest_and_undefined_scores_are_no_scores():
    watch = watching([0.2, float("nan"), 0.5, 0.5, 0.4])
    for done in range(9):
        watch.look(done, NETWORK)
    assert [point.done for point in watch.curves["planned"].points] == [0, 2, 4, 6, 8]
    assert (watch.best.done, watch.best.value) == (4, 0.5)
    assert watch.curves["planned"].since_best == 2


def test_patience_counts_looks_without_a_new_best_and_survives_a_resume(tmp_path):
    watch = watching([0.5, 0.4, 0.6, 0.6, 0.1], patience=2)
    ended = []
    for done in (0, 2, 4, 6):
        watch.look(done, NETWORK)
        ended.append(watch.ended)
    watch.world = World(1, 2)  # only rank 0 keeps weights
    again = watching([0.1], patience=2)
    again.world = watch.world
    again.restore(watch.state(), tmp_path)
    again.world = World()
    assert again.look(6, NETWORK) == {}  # it looked at this step before it was saved
    again.look(8, NETWORK)
    assert (ended, again.ended) == ([False, False, False, False], True)


def test_a_probe_that_scores_something_else_now_begins_anew():
    said: list[str] = []
    watch = watching([0.5], said=said)
    watch.look(0, NETWORK)
    state = watch.state()
    state["planned"]["identity"] = "other"
    again = watching([0.3], said=said)
    again.restore(state, None)
    assert again.best is None
    assert any("its curve begins here" in line for line in said)


def test_scores_whose_interval_lies_below_the_start_are_warned_of_once():
    said: list[str] = []
    watch = watching([0.8, 0.9, 0.5, 0.4], said=said)
    for done in (0, 2, 4, 6):
        watch.look(done, NETWORK)
    warned = [line for line in said if line.startswith("warning: probe planned")]
    assert len(warned) == 1
    assert "lies below 0 [-0.300, -0.300]" in warned[0]


def test_looking_leaves_modes_buffers_gradients_and_random_state():
    network = create_model("test_resnet", num_classes=0)
    network.train()
    frozen = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    frozen.eval()
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    gradients = [p.grad.clone() for p in network.parameters()]
    random = torch.get_rng_state()
    with undisturbed(network, torch.device("cpu")):
        assert not any(module.training for module in network.modules())
        assert not network(torch.randn(2, 3, 32, 32)).requires_grad
    assert network.training
    assert not frozen.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, network.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())


def probe(**keys):
    return ProbeConfig(**({"name": "p", "data": "d", "task": "phase"} | keys))


@pytest.mark.parametrize("total", [10, 11, 60, 333, 1000])
def test_a_short_run_has_six_points_and_more(total):
    when = cadence(probe(), RECIPE, 4, total, 10, probes=3)
    assert sum(when.is_due(done) for done in range(total + 1)) == when.looks >= 6


@pytest.mark.parametrize("batch", [64, 256, 4096])
@pytest.mark.parametrize("total", [1001, 5000, 400_000])
@pytest.mark.parametrize("probes", [1, 3])
def test_a_long_run_spends_three_per_cent_at_most(batch, total, probes):
    when = cadence(probe(frames=200), RECIPE, batch, total, 10, probes)
    if when.looks > 2:  # the first and the last weights are always looked at
        assert probes * when.looks * when.cost <= 0.0301 * total
    assert 2 <= when.looks <= 52


def test_a_duration_is_taken_as_it_is():
    assert cadence(probe(every="7 steps"), RECIPE, 64, 5000, 10, 1).every == 7
    assert cadence(probe(every="10 %"), RECIPE, 64, 5000, 10, 1).every == 500
    assert np.isclose(Cadence(100, 1000, 5.0).share, 55 / 1055)
