"""What the simulation of reading counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from data_factory import make_catalog

from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import locality


def test_a_read_touches_every_granule_it_overlaps():
    begin, size = np.array([0, 4095, 8192]), np.array([4096, 2, 1])
    assert locality.touched(begin, size, 4096).tolist() == [0, 0, 1, 2]


def test_a_seek_is_a_fetch_that_is_not_in_the_same_or_the_next_granule():
    assert locality.seeks(np.array([], np.int64)) == 0
    assert locality.seeks(np.array([7, 7, 8, 10, 9, 10])) == 3


def test_the_granule_used_longest_ago_leaves_the_cache():
    recent = locality.Recent(2)
    assert recent.misses([1, 2, 1, 3, 1, 2]) == [1, 2, 3, 2]


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_catalog_in_one_granule_is_fetched_once_and_its_shards_opened_once(tmp_path, nodes):
    catalog = make_catalog(tmp_path, 3, 20)
    plan = Plan(Composition(curate="none").resolve(catalog), 60, 0)
    found = locality.simulate(catalog, plan, 0, 2, nodes, 1 << 30)
    assert found["useful bytes"] <= catalog.frames["size"].sum()
    if nodes == 1:
        assert found["useful bytes"] == catalog.frames["size"].sum()
        assert found["videos of the global batch"] == 3
        assert found["shards"] == 3
    assert found["1 MiB: bytes alone"] == 3 << 20
    assert found["1 MiB: bytes cached"] == (3 << 20) / 2  # both steps fetch it once together
    assert found["opens, sorted"] == 3 / 2
    assert found["1 MiB: seeks alone, sorted"] == 3
