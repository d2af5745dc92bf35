"""Tiny pretraining runs, and what it means that two of them are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trocar.runs.run_folder import attempts, read_metrics
from trocar.ssl.engine import checkpoint

TIMING = {
    "images_per_s",
    "data_wait",
    "device_wait",
    "slowest_rank",
    "slowest_rank_s",
    "median_rank_s",
    "peak_memory_mib",
}
DATA = {"composition": {"curate": "none", "weights": "uniform"}}
RUN = {"threads": 1, "log_every": 1}


def small_run(catalog: Path, out: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration with these sections, without tracking, that logs each step."""
    own = {"data": {"catalog": str(catalog), **DATA}, "run": {"out": str(out), **RUN}, "tracking": {"uri": "none"}}
    return own | sections | {"run": own["run"] | sections.get("run", {})}


def same(a: object, b: object) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def logged(run: Path) -> list[dict[str, Any]]:
    """Every logged number of a run but how long things took."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(run)]


def assert_identical(run: Path, reference: Path, steps: int, resumed_after: int) -> None:
    """A run that resumed after `resumed_after` steps or later ended in the bits of one that nothing disturbed."""
    ours, theirs = (checkpoint.load(checkpoint.path_of(folder, steps)) for folder in (run, reference))
    differing = [k for k in theirs.state["method"] if not same(ours.state["method"][k], theirs.state["method"][k])]
    assert differing == []
    assert same(ours.state, theirs.state)
    weights = [(folder / "backbone" / "model.safetensors").read_bytes() for folder in (run, reference)]
    assert weights[0] == weights[1]
    # not from the start again: the last attempt began where the checkpoint was
    last = max(attempts(run).items())[1]
    assert json.loads(last.read_text().splitlines()[0])["step"] >= resumed_after
    assert [row["step"] for row in logged(reference)] == list(range(steps))
    assert logged(run) == logged(reference)
