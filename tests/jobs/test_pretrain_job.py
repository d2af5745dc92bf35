"""Pretraining as a function: what it leaves of its process, and how it is stopped."""

import signal

import pytest
import torch
from data_factory import make_catalog
from run_factory import small_run

from trocar.core.config import validate
from trocar.errors import StoppedError
from trocar.jobs.pretrain import describe, pretrain
from trocar.runs.run_folder import read_record
from trocar.ssl.engine import checkpoint
from trocar.ssl.run.pretrain_config import PretrainConfig

METHOD = {"name": "simclr", "views": {"size": 32}, "head": {"layers": [16, 8]}}


@pytest.fixture
def config(tmp_path):
    make_catalog(tmp_path / "shards", 2, 8)
    sections = {"backbone": {"name": "test_resnet"}, "method": METHOD, "train": {"batch": 4, "steps": 3}}
    tree = small_run(tmp_path / "shards", tmp_path / "run", **sections, run={"workers": 0, "threads": 2})
    return validate(PretrainConfig, tree, "test")


def test_a_run_leaves_threads_random_state_and_signal_handlers_as_they_were(config):
    torch.manual_seed(7)
    before = torch.get_num_threads(), torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
    assert pretrain(config, lambda line: None) == config.run.out
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert signal.getsignal(signal.SIGTERM) is before[2]


def test_a_run_that_is_asked_to_stop_saves_raises_and_resumes(config):
    said = []
    with pytest.raises(StoppedError) as end:
        pretrain(config, said.append, stop=lambda: signal.SIGUSR1)
    assert end.value.code == 128 + signal.SIGUSR1
    assert checkpoint.steps(config.run.out) == [1]
    assert read_record(config.run.out)["status"] == "killed"
    pretrain(config, said.append)
    assert any(line.startswith("resuming") for line in said)
    assert read_record(config.run.out)["status"] == "finished"


def test_a_description_writes_nothing(config):
    assert any(line.startswith("data       16 frames of 2 cases") for line in describe(config, lambda line: None))
    assert not config.run.out.exists()


@pytest.mark.slow
def test_several_ranks_are_processes_of_their_own_whose_failure_is_an_error(config, tmp_path):
    two = config.model_copy(update={"run": config.run.model_copy(update={"ranks": 2, "threads": 1})})
    pretrain(two, lambda line: None)
    assert (tmp_path / "run" / "finished.json").is_file()


def test_milestones_that_no_other_checkpoint_falls_on_are_kept(config):
    run = config.run.model_copy(update={"checkpoint_every": 5, "milestone_every": 2, "keep_last": 1})
    pretrain(config.model_copy(update={"run": run}), lambda line: None)
    assert checkpoint.steps(run.out) == [2, 3]
    assert (checkpoint.path_of(run.out, 2) / "backbone" / "model.safetensors").is_file()
