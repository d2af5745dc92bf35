"""Sinkhorn-Knopp over ranks that have different numbers of samples."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from trocar.ssl import losses


@pytest.fixture
def two_ranks(monkeypatch):
    """Runs a function of a rank's logits on two threads, whose mean and maximum over ranks are those of both."""
    barrier, given = Barrier(2), {}

    def run(parts):
        def of_rank(rank):
            return losses.balanced_probabilities(parts[rank], 0.1)

        def reduced(value, reduce):
            given[barrier.wait()] = value
            barrier.wait()
            result = reduce(given[0], given[1])
            barrier.wait()
            return result

        monkeypatch.setattr(losses, "mean_over_ranks", lambda x: reduced(x, lambda a, b: (a + b) / 2))
        monkeypatch.setattr(losses, "max_over_ranks", lambda x: reduced(x, torch.maximum))
        with ThreadPoolExecutor(2) as pool:
            return torch.cat(list(pool.map(of_rank, range(2))))

    return run


@pytest.mark.parametrize("at", [4, 1, 0])
def test_ranks_with_unequal_numbers_of_samples_give_what_one_rank_gives(two_ranks, at):
    logits = torch.tensor(np.random.default_rng(0).uniform(-1, 1, size=(8, 5)))
    together = losses.balanced_probabilities(logits, 0.1)
    assert torch.allclose(two_ranks([logits[:at], logits[at:]]), together, rtol=1e-5)


def test_no_samples_at_all_give_none():
    assert losses.balanced_probabilities(torch.zeros(0, 5), 0.1).shape == (0, 5)


def test_a_sample_far_from_all_prototypes_is_spread_over_them():
    logits = torch.zeros(3, 4)
    logits[0] = -50.0
    share = losses.balanced_probabilities(logits, 0.1)
    assert torch.allclose(share, torch.full((3, 4), 0.25))
