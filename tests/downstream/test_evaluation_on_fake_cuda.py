"""A step of every evaluation over fake CUDA tensors: nothing is on the host that the device needs, and no step asks
the device for a value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, fake_cuda
from protocol_factory import make_problem
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from training_factory import colour_problem

from trocar.backbones import preprocess
from trocar.backbones.device import Precision
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Embedder, describe_backbone
from trocar.data.views.pixel_ops import constant
from trocar.data.views.recipe import ViewPlan
from trocar.downstream.labels import Kind
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.protocols.base import Problem, Protocol
from trocar.downstream.protocols.finetune import Finetune, _trainer
from trocar.downstream.protocols.probes import KNN, Linear
from trocar.downstream.segmentation import predict
from trocar.downstream.segmentation.segmenter import DECODERS, build_segmenter
from trocar.downstream.segmentation.train import (
    AUGMENTATION,
    SegmentationTraining,
    segmentation_loss,
    segmenter_training,
)
from trocar.downstream.temporal import train as temporal
from trocar.downstream.temporal.head import HEADS, Sequence, fit_standard
from trocar.downstream.temporal.heads import get_head
from trocar.downstream.temporal.train import TemporalConfig
from trocar.downstream.training.batches import Cut, NetworkImages
from trocar.downstream.training.finetuning import FinetuneTrainer
from trocar.downstream.training.fit import make_optimizer, take_step
from trocar.downstream.training.loss import TemporalLoss

Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture(autouse=True)
def no_constants_from_elsewhere() -> Iterator[None]:
    """Those that are kept for a fake GPU are kept for as long as a test takes."""
    yield
    preprocess.in_levels.cache_clear()
    constant.cache_clear()


def gru_of_shapes(x: Tensor, hidden: Tensor, weights: list[Tensor], *_: object) -> tuple[Tensor, Tensor]:
    assert {y.device for y in (x, hidden, *weights)} == {CUDA}
    return x.sum() + weights[0].sum() + x.new_empty(*x.shape[:-1], hidden.shape[-1]), hidden


@contextmanager
def gpu() -> Iterator[None]:
    """A fake GPU on which every module already is."""
    with (
        fake_cuda(),
        patch.object(nn.Module, "to", lambda module, *_, **__: module),
        patch.object(Tensor, "item", lambda _: 1.0),  # of optimizers, which count their steps on the host
        patch.object(torch._VF, "gru", gru_of_shapes, create=True),  # cuDNN's asks for the device itself
    ):
        yield


def on_fake_gpu(module: Module) -> Module:
    """A copy whose tensors have no data and are said to be on a GPU; to be called within `gpu`."""
    memo: dict[int, Any] = {}
    for x in module.buffers():
        memo[id(x)] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(
            torch.empty_strided(p.shape, p.stride(), dtype=p.dtype, device=CUDA), p.requires_grad
        )
    return copy.deepcopy(module, memo)


def give_gradients(module: nn.Module) -> Callable[[Tensor], None]:
    """In the place of a backward pass: autograd's engine wants a device that exists."""

    def backward(loss: Tensor, *_: object) -> None:
        assert loss.device == CUDA
        assert loss.requires_grad
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    return backward


def noted(network: nn.Module) -> set[torch.dtype]:
    """The dtypes that the layers of a network give, filled in as it runs."""
    seen: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(lambda _module, _inputs, out: seen.add(out.dtype))
    return seen


def pictures(count: int, size: int = 32) -> Tensor:
    return torch.empty((count, 3, size, size), dtype=torch.uint8, device=CUDA)


def embedded(architecture: str, precision: Precision) -> set[torch.dtype]:
    model = load_backbone(f"random:{architecture}")
    with gpu():
        embedder = Embedder(on_fake_gpu(model), describe_backbone(model), "cuda:0", precision)
        seen = noted(embedder.model)
        for _ in range(2):
            features = embedder(pictures(4))
            assert (features.device, features.dtype) == (CUDA, torch.float32)
    return seen


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_features_are_computed_in_the_precision_and_come_as_float32(architecture: str) -> None:
    assert embedded(architecture, "bfloat16") == {torch.bfloat16}
    assert embedded(architecture, "float32") == {torch.float32}


def test_a_constant_that_forgot_its_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = lru_cache(lambda values, device: torch.tensor(values).view(3, 1, 1))
    monkeypatch.setattr(preprocess, "in_levels", forgetful)
    with pytest.raises(RuntimeError, match=r"cuda:0(,| and) cpu"):
        embedded("test_resnet", "bfloat16")


def problem_and_rows(root: Path, tasks: str) -> tuple[Problem, Ints]:
    problem = colour_problem(root, tasks)
    return problem, problem.train[:8]


@pytest.mark.parametrize("tasks", ["phase", "phase+tools"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_of_fine_tuning_and_a_prediction(tmp_path: Path, tasks: str, precision: Precision) -> None:
    problem, rows = problem_and_rows(tmp_path, tasks)
    goals = problem.goals
    # Some frames have a label of one task alone.
    goals[-1].targets[rows[:2]] = -1
    recipe = Finetune(batch=8, class_weights="balanced").fine_tuning()
    real = _trainer(problem, recipe, goals)
    with gpu():
        network = on_fake_gpu(real.network)
        images = NetworkImages(real.images.pixels, real.images.preprocessing, recipe.augment, 0, "cuda:0", workers=0)
        trainer = FinetuneTrainer(network, goals, images, recipe, 0, precision)
        seen = noted(network)
        training = trainer.training(problem.train)
        optimizer = make_optimizer(training)
        with patch.object(torch.autograd, "backward", give_gradients(network)):
            for epoch in (0, 1):
                loss = take_step(training, optimizer, (rows, images.cut(rows, epoch)), epoch)
                assert (loss.device, loss.shape) == (CUDA, ())
        logits = trainer.forward(images.cut(rows, None))
        assert {x.device for x in logits.values()} == {CUDA}
    assert seen == {getattr(torch, precision)}


@pytest.mark.parametrize("decoder", DECODERS.names())
def test_a_step_of_segmentation_and_its_logits(decoder: str) -> None:
    size, classes = (32, 64), 3
    real = build_segmenter(load_backbone("random:resnet10t"), decoder, classes, size, freeze=decoder == "linear")
    config = SegmentationTraining(class_weights=[1, 2, 3])
    toy = np.zeros((4, *size, 3), np.uint8), np.zeros((4, *size), np.uint8)
    with gpu():
        model = on_fake_gpu(real).train()
        training = segmenter_training(model, toy, config, None, 0, "cuda:0", "bfloat16", 0, "")
        optimizer = make_optimizer(training)
        params = ViewPlan(AUGMENTATION.recipe(*size), 0).params(
            0, np.arange(4), *(np.full(4, side) for side in size[::-1])
        )
        with patch.object(torch.autograd, "backward", give_gradients(model)):
            for step in range(2):
                pixels, labels = (torch.empty(x, dtype=torch.uint8, device=CUDA) for x in ((4, 3, *size), (4, *size)))
                loss = take_step(training, optimizer, (np.arange(4), Cut(pixels, params, labels)), step)
                assert (loss.device, loss.shape) == (CUDA, ())
            with pytest.raises(DataDependentOutputException):  # as does any question that waits for the device
                segmentation_loss(loss.expand(4, classes, *size), labels.long())
        logits = predict.logits_of(model.eval(), pixels, "bfloat16")
        assert (logits.device, logits.dtype) == (CUDA, torch.float32)
        assert predict.class_map(logits).device == CUDA


@pytest.mark.parametrize(("name", "kind"), [*((name, "multiclass") for name in HEADS.names()), ("mstcn", "multilabel")])
def test_a_step_of_a_temporal_head_and_its_prediction(name: str, kind: Kind) -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(-1, 2, 40 if kind == "multiclass" else (40, 3))
    sequence = Sequence("a", generator.normal(size=(40, 8)).astype(np.float32), targets, np.arange(40.0))
    small = {"layers": 2} if "layers" in HEADS.get(name).model_fields else {}
    config = TemporalConfig(head=get_head(name, **small), feature_noise=0.1)
    real = config.head.build(8, 3, kind)
    loss = TemporalLoss(kind, torch.ones(3), 0.15, 16.0)
    with gpu():
        head = on_fake_gpu(real).train()
        weights = torch.empty(3, device=CUDA)
        criterion = replace(loss, weights=weights)
        run = temporal.head_training(
            config, head, fit_standard([sequence]), criterion, [sequence], kind, 0, "cuda:0", "", None
        )
        optimizer = make_optimizer(run)
        with patch.object(torch.autograd, "backward", give_gradients(head)):
            for step in range(2):
                assert take_step(run, optimizer, sequence, step).device == CUDA
        logits = head.eval()(temporal._tensor(sequence.features, "cuda:0"))[-1]
        assert (logits.device, logits.shape) == (CUDA, (40, 3))


@pytest.mark.parametrize("protocol", [KNN(), Linear()])
def test_probes_of_frozen_features_stay_on_the_host(protocol: Protocol) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    problem = make_problem(x, y, np.arange(30) // 10, x[:6])
    with fake_cuda(), patch("torch.Tensor.to", lambda *_, **__: pytest.fail("a probe went to the device")):
        assert protocol.predict(problem).scores.shape == (6, 3)
