"""Shuffling deals the global batch anew, and restoring undoes it."""

import torch

from trocar.ssl.ranks.batch_norm import ShuffledBatch, permutation
from trocar.ssl.ranks.distributed import World, process_group


def on_two_ranks(rank, folder):
    x = torch.arange(rank * 4, rank * 4 + 4, dtype=torch.float32)[:, None]
    with process_group(World(rank, 2, rank), torch.device("cpu")):
        batch = ShuffledBatch.of(x, seed=3, step=5)
        return {"x": x, "shuffled": batch.shuffled, "restored": batch.restored(batch.shuffled * 2)}


def test_shuffling_deals_the_global_batch_anew_and_restoring_gives_each_rank_its_own(ranks):
    dealt = torch.cat([rank["shuffled"] for rank in ranks])[:, 0]
    assert torch.equal(dealt, permutation(8, seed=3, step=5).float())
    assert sorted(dealt.tolist()) == list(range(8))
    assert not torch.equal(dealt, torch.arange(8.0))
    for rank in ranks:
        assert torch.equal(rank["restored"], rank["x"] * 2)


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
