"""`train.precision`: what auto becomes on which card, and that a resume on another one notices."""

import pytest
import torch
from data_factory import make_catalog

from trocar.backbones.device import allow_tf32, resolved
from trocar.core.config import load
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import checkpoint
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run import pretrain
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
V100, T4, A100, H100 = (7, 0), (7, 5), (8, 0), (9, 0)


def plug_in(monkeypatch, capability):
    """A card of that capability, of which torch says what it says of real ones: emulated bfloat16 is support too."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla Test")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or capability >= A100
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 8)
    return folder


def pretraining(shards, device, *overrides):
    words = [f"data.catalog={shards}", f"run.out={shards / 'run'}", "train.batch=4", "data.composition.curate=none"]
    config = load(PretrainConfig, "small_dino", [*words, "train.precision=auto", "data.backend=torch", *overrides])
    setup = Pretraining(config, World(), print, RunGuard())
    setup.__dict__["device"] = device
    return setup


@pytest.mark.parametrize(
    ("capability", "precision"), [(V100, "float32"), (T4, "float32"), (A100, "bfloat16"), (H100, "bfloat16")]
)
def test_auto_is_bfloat16_on_cards_that_compute_in_it(monkeypatch, capability, precision):
    plug_in(monkeypatch, capability)
    assert resolved("auto", CUDA) == precision
    assert resolved("float32", CUDA) == "float32"


def test_on_a_cpu_auto_is_float32_and_what_is_said_holds():
    assert [resolved(wanted, CPU) for wanted in ("auto", "float32", "bfloat16")] == ["float32", "float32", "bfloat16"]


def test_bfloat16_is_refused_by_name_where_it_would_be_emulated(monkeypatch):
    plug_in(monkeypatch, V100)
    with pytest.raises(ConfigError, match=r"train.precision: bfloat16, but Tesla Test \(compute capability 7.0\)"):
        resolved("bfloat16", CUDA, "train.precision")


def test_the_identity_holds_what_auto_was_and_another_card_is_refused_by_the_fields_name(shards, monkeypatch):
    plug_in(monkeypatch, H100)
    before = pretraining(shards, CUDA).identity()
    assert before["recipe"]["train"]["precision"] == "bfloat16"
    plug_in(monkeypatch, V100)
    now = pretraining(shards, CUDA).identity()
    with pytest.raises(ConfigError, match=r"recipe\.train\.precision: 'bfloat16' in the checkpoint, 'float32' now"):
        checkpoint.check_same(before, now, (), shards)
    said = pretraining(shards, CUDA, "train.precision=float32").identity()
    assert checkpoint.check_same(said, now, (), shards) == []


def test_auto_on_a_cpu_has_the_identity_of_float32(shards):
    assert pretraining(shards, CPU).identity() == pretraining(shards, CPU, "train.precision=float32").identity()


def test_ranks_on_cards_of_different_kinds_are_refused(shards, monkeypatch):
    setup = pretraining(shards, CPU)
    pretrain._require_one_precision(setup)
    # the largest over ranks of [is bfloat16, is not]: one is, another isn't
    monkeypatch.setattr(pretrain, "agree", lambda flags: [1.0, 0.0])
    with pytest.raises(ConfigError, match=r"train\.precision: auto is bfloat16 on some ranks"):
        pretrain._require_one_precision(setup)


def test_tf32_is_for_gpus_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    allow_tf32(CPU)
    assert asked == []
    allow_tf32(CUDA)
    assert asked == ["high"]


def test_the_environment_names_card_and_libraries_on_a_gpu_alone(shards, monkeypatch, tmp_path):
    assert not {"gpu", "driver", "tf32"} & pretraining(shards, CPU).environment().keys()
    plug_in(monkeypatch, H100)
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)\nGCC ...\n"
    )
    monkeypatch.setattr("trocar.backbones.device.DRIVER", driver)
    monkeypatch.setattr("trocar.backbones.device.nccl_version", lambda: "2.27.5")
    found = pretraining(shards, CUDA).environment()
    assert (found["gpu"], found["compute_capability"], found["driver"]) == ("Tesla Test", "9.0", "580.65.06")
    assert (found["nccl"], found["tf32"]) == ("2.27.5", False)
    assert {"cuda", "cudnn"} <= found.keys()
