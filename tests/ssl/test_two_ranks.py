"""Losses, gradients and queues of two ranks are those of one with the same global batch; shuffling goes both ways."""

import os

import pytest
import torch
import torch.multiprocessing as mp
from method_factory import START, build, convolutional, some_views
from torch import nn

from trocar.errors import ConfigError
from trocar.ssl.distributed import World, mean_over_ranks, process_group
from trocar.ssl.methods import default
from trocar.ssl.sample import Views
from trocar.ssl.shuffle import ShuffledBatch, permutation

CPU = torch.device("cpu")
BATCH = 8
HEAD = {"layers": [16, 8]}
METHODS = {
    "simclr": default("simclr", views={"size": 16}, head=HEAD),
    "moco_v2": default("moco_v2", views={"size": 16}, head=HEAD, queue=12),
    "moco_v3": default("moco_v3", views={"size": 16}, head=HEAD, predictor=HEAD),
    "swav": default(
        "swav",
        views={"global": {"size": 16}, "local": {"count": 3, "size": 8}},
        head=HEAD,
        prototypes=12,
        queue=12,
        queue_start="0 steps",
    ),
}


def without_batch_statistics():
    return convolutional(norm=lambda width: nn.GroupNorm(1, width))


def global_views(config, step):
    """A batch in which one frame is there twice, once on each rank if there are two."""
    views = some_views(config, BATCH, seed=step)
    rows = views.rows.clone()
    rows[6] = rows[1]
    return Views(views.crops, rows, views.mask_seed)


def trained(config, rank, ranks):
    """Losses, gradients and buffers of three steps, of which this rank sees its share."""
    method = build(config, without_batch_statistics).train()
    losses, gradients = [], []
    for step in range(3):
        method.zero_grad()
        loss = method.loss(global_views(config, step).split(ranks)[rank], START)["loss"]
        loss.backward()
        losses.append(mean_over_ranks(loss.detach()))
        parameters = [p for p in method.parameters() if p.grad is not None]
        gradients.append([mean_over_ranks(p.grad.clone()) for p in parameters])
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients[-1], strict=True):
                p -= 0.1 * gradient
        method.after_step(START)
    return {"loss": losses, "gradients": gradients, "buffers": dict(method.named_buffers())}


def shuffled(rank):
    x = torch.arange(rank * 4, rank * 4 + 4, dtype=torch.float32)[:, None]
    batch = ShuffledBatch.of(x, seed=3, step=5)
    return {"x": x, "shuffled": batch.shuffled, "restored": batch.restored(batch.shuffled * 2)}


def refusal():
    try:
        build(METHODS["swav"].model_copy(update={"queue": 13}))
    except ConfigError as error:
        return str(error)
    return ""


def worker(rank, folder):
    torch.set_num_threads(1)
    os.environ["TROCAR_RENDEZVOUS"] = f"file://{folder}/store"
    with process_group(World(rank, 2, rank), CPU):
        results = {name: trained(config, rank, 2) for name, config in METHODS.items()}
        torch.save(results | {"shuffle": shuffled(rank), "refusal": refusal()}, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_give_the_loss_gradients_and_queue_of_one(two, name):
    one = trained(METHODS[name], 0, 1)
    for rank in two:
        torch.testing.assert_close(rank[name], one, rtol=2e-4, atol=2e-6)
    for key, value in two[0][name]["buffers"].items():
        assert torch.equal(value, two[1][name]["buffers"][key])  # to the bit: a checkpoint is rank 0's


def test_shuffling_deals_the_global_batch_anew_and_restoring_gives_each_rank_its_own(two):
    dealt = torch.cat([rank["shuffle"]["shuffled"] for rank in two])[:, 0]
    assert torch.equal(dealt, permutation(8, seed=3, step=5).float())
    assert sorted(dealt.tolist()) == list(range(8))
    assert not torch.equal(dealt, torch.arange(8.0))
    for rank in two:
        assert torch.equal(rank["shuffle"]["restored"], rank["shuffle"]["x"] * 2)


def test_a_queue_that_does_not_divide_by_the_ranks_is_refused_when_the_method_is_built(two):
    assert all("13" in rank["refusal"] and "2 ranks" in rank["refusal"] for rank in two)


def test_the_permutation_is_one_and_differs_by_step_and_seed():
    orders = [permutation(64, seed, step) for seed, step in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(64))
    assert torch.equal(orders[0], permutation(64, 0, 0))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_one_rank_keeps_its_order():
    x = torch.randn(4, 2)
    batch = ShuffledBatch.of(x, seed=0, step=0)
    assert torch.equal(batch.shuffled, x)
    assert torch.equal(batch.restored(x * 2), x * 2)
