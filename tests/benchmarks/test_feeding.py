"""The benchmark of feeding DALI, on a few frames: both ways hand over the same."""

import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("nvidia.dali", reason="DALI is optional")
import feeding


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return feeding.steps_of(feeding.write_frames(tmp_path_factory.mktemp("frames"), 16), 8)


def test_the_reference_feeds_what_training_feeds(steps):
    reference, ours = feeding.Reference(steps)(1), feeding.Readers(steps, 3)(1)
    assert len(reference) == len(ours) == 1 + 1 + 2 * steps.recipe.count
    for a, b in zip(reference, ours, strict=True):
        assert all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def test_frames_are_about_as_large_as_surgical_ones(steps):
    assert 55_000 < steps.reader.catalog.frames["size"].mean() < 85_000


def test_every_way_is_compared(steps):
    found = feeding.compare(steps, {"readers 2": feeding.Readers(steps, 2)}, 2)
    (compared,) = found.values()
    assert min(astuple(compared)) > 0
