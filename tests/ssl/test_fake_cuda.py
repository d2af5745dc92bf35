"""A step of every method over fake CUDA tensors: nothing is on the host that the device needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_cuda import CUDA, fake_cuda
from tiny_methods import METHODS, VIT, Tree, tiny_run
from torch import Tensor, nn
from trainer_hooks import Recorder

from trocar.core.config import validate
from trocar.data.loading.batch import Batch
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine import trainer as training
from trocar.ssl.engine.health import feature_std, rankme
from trocar.ssl.engine.method import Method, Progress, Views
from trocar.ssl.engine.optimizer import build_optimizer
from trocar.ssl.engine.trainer import Trainer
from trocar.ssl.methods import dino
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.run_description import empty_views, without_data

LATE = Progress(9, 10, 2)  # past what is frozen or warmed up at first


def one_step(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, **sections: Tree
) -> list[torch.dtype]:
    """A whole step and the health of the features on a fake GPU; the dtypes of what the student gave."""
    case = METHODS[name]
    train = {"accumulate": case.accumulate, "precision": "bfloat16"}
    tree = tiny_run(name, data, data / "run", 1, case.method, backbone={"name": backbone}, train=train, **sections)
    setup = Pretraining(validate(PretrainConfig, tree, "test"), World(), print, RunGuard())
    real = setup.placed()
    with fake_cuda():
        method = without_data(real, CUDA).train()
        monkeypatch.setattr(Tensor, "backward", lambda loss: give_gradients(method, loss))
        monkeypatch.setattr(training, "agree", decided)
        monkeypatch.setattr(Views, "of", lambda batch: empty_views(setup.method_config.recipe(), 8, CUDA))
        trainer = Trainer(
            method,
            build_optimizer(method, setup.config.optim),
            setup.schedule,
            setup.config.train,
            setup.config.optim,
            seed=0,
            world=World(),
            device=CUDA,
            hooks=Recorder(),
        )
        monkeypatch.setattr(trainer, "_mean", lambda losses: {"devices": len({x.device for x in losses.values()})})
        seen = noted(method.backbones[0])
        values = trainer._step(Batch(LATE.step, None, {}, None), LATE)
        assert values["devices"] == 1
        assert values["skipped"] == 0
        with trainer._autocast():
            features = method.embed(Views.of(None))
        assert features.device == CUDA
        assert feature_std(features).device == CUDA
        assert rankme(features).shape == ()
        assert {x.device for x in method.state_dict().values()} == {CUDA}
    return seen


def give_gradients(method: Method, loss: Tensor) -> None:
    """In the place of a backward pass: autograd's engine wants a device that exists."""
    assert loss.device == CUDA
    assert loss.requires_grad
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)


def decided(flags: Tensor) -> list[float]:
    assert flags.device == CUDA
    return [0.0, 0.0, 1.0]


def noted(network: nn.Module) -> list[torch.dtype]:
    """The dtypes that the layers of a network give, filled in as it runs."""
    seen: list[torch.dtype] = []
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    return seen


@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_mixes_no_devices_and_computes_in_bfloat16(data, monkeypatch, name, norm):
    case = METHODS[name]
    backbone = case.backbone if norm == "layer_norm" else case.with_batch_norm
    if backbone is None:
        pytest.skip("the method takes no backbone with batch norm")
    backbone = str(data / backbone) if (data / backbone).exists() else backbone
    assert torch.bfloat16 in one_step(name, data, monkeypatch, backbone)


@pytest.mark.parametrize("kind", ["gram", "alignment", "features", "cosine"])
@pytest.mark.parametrize(
    "teacher", [{"teacher": "first"}, {"teacher": "ema"}, {"teacher": "ema", "refresh": "3 steps"}]
)
def test_an_anchor_is_where_its_method_is(data, monkeypatch, kind, teacher):
    assert torch.bfloat16 in one_step("dino", data, monkeypatch, str(data / VIT), anchor={"kind": kind, **teacher})


def test_an_arange_that_forgot_its_device_is_found(data, monkeypatch):
    entropy = dino.entropy
    monkeypatch.setattr(dino, "entropy", lambda p: entropy(p + torch.arange(p.shape[-1])))
    with pytest.raises(RuntimeError, match=r"cuda:0(,| and) cpu"):
        one_step("dino", data, monkeypatch, METHODS["dino"].backbone)
