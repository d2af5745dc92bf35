"""The bank of the latest samples: order, wrap, and what a batch longer than the bank leaves."""

import torch

from trocar.ssl.ranks.distributed import own_share, push


def pushed_in(length, batches):
    ring, labels, count = torch.zeros(length, 2), torch.full((length,), -1), torch.tensor(0)
    for batch in batches:
        new = torch.tensor(batch)
        push([ring, labels], count, [new[:, None].float().expand(-1, 2), new])
    assert torch.equal(ring[:, 0].long()[labels >= 0], labels[labels >= 0])  # the rings move together
    return labels.tolist(), int(count)


def test_the_oldest_entries_are_overwritten_in_order_and_the_end_wraps():
    assert pushed_in(5, [[1, 2]]) == ([1, 2, -1, -1, -1], 2)
    assert pushed_in(5, [[1, 2], [3, 4]]) == ([1, 2, 3, 4, -1], 4)
    assert pushed_in(5, [[1, 2], [3, 4], [5, 6]]) == ([6, 2, 3, 4, 5], 6)
    assert pushed_in(5, [[1, 2], [3, 4], [5, 6], [7, 8]]) == ([6, 7, 8, 4, 5], 8)


def test_of_a_batch_longer_than_the_ring_the_end_stays():
    labels, count = pushed_in(3, [[1], [2, 3, 4, 5, 6]])
    assert sorted(labels) == [4, 5, 6]
    assert count % 3 == labels.index(4)  # the next entry overwrites the oldest
    assert pushed_in(3, [[1], [2, 3, 4, 5, 6], [7]])[0].count(4) == 0


def test_one_rank_s_share_is_the_whole_ring():
    ring = torch.arange(5)
    assert torch.equal(own_share(ring), ring)
