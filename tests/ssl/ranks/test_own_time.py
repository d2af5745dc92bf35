"""The rank that the others wait for is named, by what is its own of a step."""

import time

import pytest
import torch

from trocar.ssl.engine import health
from trocar.ssl.engine.health import OwnTime
from trocar.ssl.ranks.distributed import World, barrier, process_group
from trocar.ssl.run.run_hooks import _straggler

CPU = torch.device("cpu")


def on_two_ranks(rank, folder):
    with process_group(World(rank, 2, rank), CPU):
        own = OwnTime(CPU)
        own.ends()  # a first step, before which nothing was agreed on
        for _ in range(3):
            barrier()
            own.begins()
            time.sleep((0.01, 0.3)[rank])
            own.ends()
            barrier()
        return own.slowest(), own.slowest()


@pytest.mark.slow
def test_all_ranks_know_which_one_took_longest_without_the_wait_for_it(ranks):
    (first, after), (same, _) = ranks
    assert first == same
    assert first["slowest_rank"] == 1
    assert first["slowest_rank_s"] >= 0.3
    assert first["median_rank_s"] < 0.2
    assert after == {}


def test_one_rank_waits_for_nobody():
    own = OwnTime(CPU)
    own.begins()
    own.ends()
    assert own.slowest() == {}


@pytest.mark.parametrize(
    ("slowest", "line"), [(0.33, "  rank 3 is slowest: 0.33 s a step, the median rank 0.30 s"), (0.3298, "")]
)
def test_it_is_said_where_it_takes_a_tenth_longer(slowest, line):
    assert _straggler({"slowest_rank": 3.0, "slowest_rank_s": slowest, "median_rank_s": 0.2999}) == line
    assert _straggler({"images_per_s": 3.0}) == ""


def test_on_a_gpu_it_is_the_time_between_two_events_of_its_stream(monkeypatch):
    class Event:
        at_ms = iter((100.0, 350.0))

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(Event.at_ms)

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(health, "is_distributed", lambda: True)
    own = OwnTime(torch.device("cuda"))
    own.begins()
    own.ends()
    assert [health._seconds(*span) for span in own._spans] == [0.25]
