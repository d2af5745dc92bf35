"""How ranks share a machine's cores and memory."""

import json
import os

import pytest

from trocar.core import resources
from trocar.data.views.recipe import ViewGroup, ViewRecipe
from trocar.errors import ConfigError
from trocar.ssl.ranks import machine
from trocar.ssl.ranks.machine import MachineShare

RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=32, scale=(0.4, 1.0)),
        "local": ViewGroup(count=4, size=16, scale=(0.1, 0.4)),
    }
)
PIXELS = 3 * (2 * 32 * 32 + 4 * 16 * 16)


@pytest.fixture
def cores(monkeypatch, tmp_path):
    """Of this process: the mask, a container's quota, and SLURM's share of the node."""

    def have(mask, quota=None, on_node=None):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(mask)})
        monkeypatch.setattr(resources, "QUOTA", tmp_path / "cpu.max")
        (tmp_path / "cpu.max").write_text(f"{quota * 100_000 if quota else 'max'} 100000\n")
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(on_node or ""))

    return have


def said(boot="here", cores=range(8), memory=1):
    return json.dumps({"boot": boot, "cores": [*cores], "memory": memory})


def found(monkeypatch, *others):
    own = json.loads(said())
    monkeypatch.setattr(machine, "_describe", lambda: own)
    return MachineShare.found(lambda name, word: [word, *others])


def test_ranks_that_may_run_on_the_same_cores_share_them(monkeypatch):
    assert found(monkeypatch) == MachineShare(1, 1)
    assert found(monkeypatch, said(), said(), said()) == MachineShare(4, 4)


def test_ranks_with_cores_of_their_own_or_on_other_machines_take_nothing_away(monkeypatch):
    tied = [said(cores=range(8 * i, 8 * i + 8)) for i in (1, 2, 3)]
    elsewhere = [said(boot="there") for _ in range(4)]
    assert found(monkeypatch, *tied, *elsewhere) == MachineShare(cores=1, memory=4)
    assert found(monkeypatch, said(memory=2)) == MachineShare(cores=2, memory=1)  # two containers


def test_this_machine_says_of_itself_what_all_processes_of_it_say_alike():
    assert MachineShare.found(lambda name, word: [word, word]) == MachineShare(2, 2)


@pytest.mark.parametrize(("mask", "sharing", "threads"), [(8, 1, 8), (8, 4, 2), (2, 4, 1)])
def test_threads_are_a_ranks_part_of_the_cores_that_it_may_run_on(cores, monkeypatch, mask, sharing, threads):
    cores(mask)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.default_threads(sharing) == threads


@pytest.mark.parametrize(
    ("mask", "quota", "on_node", "granted"),
    [(64, None, None, 64), (64, 4, None, 4), (64, None, 16, 16), (8, 32, 32, 8)],
)
def test_cores_are_what_a_container_and_a_cluster_grant(cores, mask, quota, on_node, granted):
    cores(mask, quota, on_node)
    assert resources.granted_cores() == granted


@pytest.mark.parametrize(
    ("device", "mask", "sharing", "workers"),
    [
        ("cuda", 16, 1, 14),
        ("cuda", 112, 8, 12),
        ("cuda", 128, 1, 16),
        ("cuda", 2, 1, 1),
        ("cpu", 64, 1, 2),
        ("cpu", 2, 2, 1),
        ("cpu", 1, 1, 1),
    ],
)
def test_workers_are_what_the_cores_of_a_rank_allow(cores, device, mask, sharing, workers):
    cores(mask)
    assert machine.workers_on(device, sharing) == workers


def test_what_a_worker_hands_over_are_views_on_a_cpu_and_crops_for_a_gpu():
    assert machine.handed_over(RECIPE, 10, "cpu") == 10 * PIXELS * 4
    assert machine.handed_over(RECIPE, 10, "cuda") == 10 * PIXELS


def test_a_shared_memory_too_small_for_the_batches_ahead_is_an_error_that_says_what_fits(monkeypatch):
    monkeypatch.setattr(machine, "shared_size", lambda: 64 << 20)
    machine.require_shared_memory(8 << 20, workers=4, sharing=1)
    with pytest.raises(ConfigError, match=r"5 loader workers x 2 .*8 MiB.*--shm-size=2g.*run.workers=4 or"):
        machine.require_shared_memory(8 << 20, workers=5, sharing=1)
    with pytest.raises(ConfigError, match=r"2 rank\(s\) x 3 loader workers.*run.workers=2 or"):
        machine.require_shared_memory(8 << 20, workers=3, sharing=2)
    with pytest.raises(ConfigError, match=r"run.workers=0, which loads in the trainer itself, or"):
        machine.require_shared_memory(40 << 20, workers=1, sharing=1)
    monkeypatch.setattr(machine, "shared_size", lambda: None)
    machine.require_shared_memory(1 << 40, workers=100, sharing=8)
