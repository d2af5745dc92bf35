"""The arithmetic of large machines, worked out by hand for small ones."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import large_scale as large

SMALL = large.Cluster(
    rows=72_000, nodes=2, gpus=2, batch=64, rate=16, frame=1 << 20, opens=1, storage=1, disk=1e10, disk_rate=1, nvlink=2
)


def test_a_ring_passes_twice_the_tensor_but_for_its_own_part():
    assert large.all_reduced(100, 2) == 100
    assert large.all_reduced(100, 4) == 150


def test_the_exchange_of_two_nodes_with_two_gpus():
    # 4e9 bytes: once over the network of 4 GB/s between two nodes, 2 x 1/2 of it over NVLink of 2 GB/s within one
    assert large.exchange_s(SMALL, 1e9, 4, "none") == pytest.approx(1 + 2)
    # with parts it is gathered twice and reduced once: 3 x 1/2 within a node, 3 x 3/4 over all four
    assert large.exchange_s(SMALL, 1e9, 4, "hybrid") == pytest.approx(1 + 3)
    assert large.exchange_s(SMALL, 1e9, 4, "full") == pytest.approx(3 * 3 / 4)


def test_a_step_takes_as_long_as_its_frames_and_multiply_adds():
    assert SMALL.step_s() == 64 / (16 * 4)
    assert SMALL.step_s("ViT-L/16") == pytest.approx(59.70 / 16.87)


def test_what_was_used_last_is_kept():
    recent = large.Recent(2)
    assert [recent.misses(keys) for keys in ([1, 2], [1], [3], [2], [1, 3])] == [2, 0, 1, 1, 2]


def test_reads_are_counted_by_the_plan():
    found = large.simulate(SMALL, "global", 8, cache=1e15)
    assert found.frames == 32  # half of the batch
    assert found.shards <= 20  # of 20 videos
    assert found.opens == 0  # all are open after four steps of 16 frames a process
    window = large.simulate(SMALL, "window", 8, cache=1e15)
    # 64 batches of 64 frames are 16 blocks of 256 rows, in as many videos at most
    assert window.shards <= 16


def test_staging_says_whether_it_fits():
    words, share = large.staging(SMALL)
    assert share == pytest.approx(72_000 * 2**20 / 1e10)
    assert "do not fit" in words[0]
