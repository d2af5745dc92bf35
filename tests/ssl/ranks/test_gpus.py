"""Which GPU a rank takes, and what is said of too few or too many."""

import pytest
import torch

from trocar.cli.main import main
from trocar.core.config import load
from trocar.errors import ConfigError
from trocar.ssl.ranks import machine
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.pretrain_config import PretrainConfig


@pytest.fixture
def visible(monkeypatch):
    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


def config(tmp_path, batch=8, **run):
    words = [f"data.catalog={tmp_path}", f"run.out={tmp_path / 'run'}", f"train.batch={batch}"]
    return load(PretrainConfig, "small_dino", [*words, *(f"run.{name}={value}" for name, value in run.items())])


def test_ranks_take_one_gpu_each_and_a_gpu_of_ones_own_is_number_0():
    assert [machine.gpu_of(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [machine.gpu_of(rank, 1) for rank in range(4)] == [0, 0, 0, 0]  # --gpus-per-task=1
    with pytest.raises(ConfigError, match="rank 2 of this machine has no GPU: 2 are visible"):
        machine.gpu_of(2, 2)


def test_more_ranks_than_gpus_are_refused_before_one_starts(tmp_path, visible, monkeypatch, capsys):
    visible(1)
    with pytest.raises(ConfigError, match=r"run.ranks=2, but 1 GPU\(s\) are visible.*run.ranks=1"):
        machine.ranks_to_start(config(tmp_path, ranks=2, device="auto"))
    monkeypatch.setattr("trocar.ssl.ranks.rendezvous.launch", lambda *words: pytest.fail("started"))
    words = [f"data.catalog={tmp_path}", f"run.out={tmp_path / 'run'}", "run.ranks=2"]
    assert main(["pretrain", "small_dino", *words]) == 2
    assert "run.ranks=2, but 1 GPU(s) are visible" in capsys.readouterr().err
    assert machine.ranks_to_start(config(tmp_path, ranks=2, device="cpu")) == 2


def test_auto_is_a_rank_for_each_gpu_and_one_on_a_cpu(tmp_path, visible):
    visible(4)
    auto = config(tmp_path, ranks="auto", device="auto")
    assert machine.ranks_to_start(auto) == 4
    with pytest.raises(
        ConfigError, match=r"run\.ranks=auto is 4 here: train.batch 6 does not divide by .* = 4; 4 would"
    ):
        machine.ranks_of(config(tmp_path, batch=6, ranks="auto", device="auto"))
    visible(0)
    assert machine.ranks_to_start(auto) == 1


def test_gpus_that_stay_idle_are_mentioned(visible, monkeypatch):
    visible(8)
    (line,) = machine.idle_gpus(World(), torch.device("cuda", 0))
    assert line.startswith("8 GPUs visible, 1 used")
    assert machine.idle_gpus(World(0, 8), torch.device("cuda", 0)) == []
    visible(1)
    assert machine.idle_gpus(World(), torch.device("cuda", 0)) == []
    monkeypatch.setattr(machine, "hidden", lambda: "CUDA_VISIBLE_DEVICES=''")
    assert "CUDA_VISIBLE_DEVICES='' hides them" in machine.idle_gpus(World(), torch.device("cpu"))[0]


def test_two_ranks_on_one_gpu_are_refused_by_name():
    machine.refuse_shared(["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"ranks 1 and 2 have the same GPU \(b\).*--gpus-per-task=1"):
        machine.refuse_shared(["a", "b", "b"])
