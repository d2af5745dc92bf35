"""The scale benchmark, on a catalog small enough for a test."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scale_points

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("kind", ["whole", "curated"])
def test_the_synthetic_selection_holds_distinct_rows_of_as_many_videos_as_its_size_needs(kind):
    rows = 40 * scale_points.VIDEO
    runs = scale_points._selection(rows, kind).pools[0].runs
    drawn = runs.rows(np.arange(len(runs)))
    assert (np.diff(drawn) > 0).all()
    if kind == "whole":
        assert drawn.tolist() == list(range(rows))
    else:
        assert 0.95 < len(runs) / (runs.start.size * scale_points.VIDEO) < 0.97


@pytest.mark.slow
def test_the_benchmark_prints_a_line_for_every_point(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "scale.py"), str(tmp_path), "--rows", "20000", "--plan-rows", "20000"]
    done = subprocess.run([*command, "--json", str(tmp_path / "all.json")], check=True, capture_output=True, text=True)
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| 20000 ")]
    assert len(lines) == 3 + 3 + 2 + 4
    assert [line[1] for line in lines[:3]] == ["none", "default", "weighted"]
    assert {len(line) for line in lines[:3]} == {9}
    window = next(line for line in lines if line[1] == "window" and line[2] == "1")
    assert float(window[7]) < float(window[6])  # a page cache saves bytes
    assert (tmp_path / "all.json").stat().st_size > 1000
