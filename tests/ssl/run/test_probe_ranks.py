"""Ranks that share a look have the score of one that looks alone, and agree on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from probe_factory import make_probed, make_probed_masks
from ranks_factory import meet
from timm import create_model

from trocar.backbones.preprocess import Preprocessing
from trocar.jobs.probes import open_probes
from trocar.ssl.engine.probe import Watch, WatchedProbe
from trocar.ssl.ranks.distributed import World, process_group
from trocar.ssl.run.probe_config import ProbeConfig


def prepare(folder: Path) -> None:
    make_probed(folder / "labels", frames=7)
    make_probed_masks(folder / "masks", frames=4)


def on_two_ranks(rank: int, folder: Path) -> dict[str, Any]:
    meet(folder / "store of probes")
    with process_group(World(rank, 2, rank), torch.device("cpu")):
        return looked(World(rank, 2, rank), folder)


def looked(world: World, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    network = create_model("test_resnet", num_classes=0)
    kinds = (("knn", "labels", "tools"), ("linear", "labels", "tools"), ("dense", "masks", "segmentation"))
    configs = [
        ProbeConfig(name=name, data=folder / data, task=task, protocol=name, frames=26, size=64)
        for name, data, task in kinds
    ]
    probes = [WatchedProbe(probe, lambda done: True) for probe in open_probes(configs)]
    watch = Watch(probes, Preprocessing((64, 64)), "float32", world, lambda line: None, "knn")
    return {"values": watch.look(0, network), "state": watch.state()}


@pytest.mark.slow
def test_two_ranks_agree_with_each_other_and_with_one(ranks: list[Any], launched: Path) -> None:
    one = looked(World(), launched / __name__)
    assert ranks[0]["values"] == ranks[1]["values"]
    assert ranks[0]["values"] == pytest.approx(one["values"], abs=1e-6)
    for name, curve in ranks[0]["state"].items():
        assert torch.equal(curve["start"], ranks[1]["state"][name]["start"])
        assert torch.allclose(curve["start"], one["state"][name]["start"], atol=1e-6, equal_nan=True)
