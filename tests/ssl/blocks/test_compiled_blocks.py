"""`train.compile`, block by block: which blocks, and that every method's passes of every size go through them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from method_factory import convolutional
from tiny_methods import METHODS, merged, tiny_run
from torch import Tensor, nn

from trocar.core.config import validate
from trocar.leakage.guard import RunGuard
from trocar.ssl.blocks import networks as compiled_blocks
from trocar.ssl.blocks.networks import compile_backbone, eagerly, repeated_blocks
from trocar.ssl.engine.method import Progress, Views
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("vit_small_patch16_224", {"Block": 12}),
        ("vit_small_patch16_dinov3", {"EvaBlock": 12}),
        ("convnext_base", {"ConvNeXtBlock": 36}),
        ("resnet18", {"BasicBlock": 8}),
        ("resnet50", {"Bottleneck": 16}),
        ("swin_tiny_patch4_window7_224", {"SwinTransformerBlock": 12}),
        ("caformer_s18", {"MetaFormerBlock": 18}),
        ("efficientnet_b0", {"InvertedResidual": 15, "DepthwiseSeparableConv": 1}),
        ("test_resnet", {"BasicBlock": 3, "Bottleneck": 1}),
    ],
)
def test_the_blocks_of_a_network_are_those_it_repeats(architecture, blocks):
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=0)
    assert Counter(type(block).__name__ for block in repeated_blocks(network)) == blocks


def test_a_network_without_blocks_is_compiled_as_a_whole():
    network = convolutional()
    assert repeated_blocks(network) == []
    assert compile_backbone(network, backend="eager") == [network]
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 6)


class Graphs:
    """A backend that computes what it is given as it is, and notes which graphs there are and which run."""

    def __init__(self) -> None:
        self.made, self.ran = 0, 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.made += 1

        def run(*arguments: Any) -> Any:
            self.ran += 1
            return graph.forward(*arguments)

        return run


class Passes:
    """Counts the passes through what is compiled of some networks, and notes what sizes come into each part."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.total = 0
        self.sizes: dict[nn.Module, set[tuple[int, ...]]] = {}
        for network in networks:
            for part in repeated_blocks(network) or [network]:
                part.register_forward_pre_hook(self._note)

    def _note(self, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.total += 1
        self.sizes.setdefault(part, set()).add(tuple(inputs[0].shape[1:]))


def placed(name: str, data: Path, compile: bool) -> tuple[Pretraining, Passes]:
    """A method whose global views are larger than its local ones, if it has any."""
    case = METHODS[name]
    larger = {key: {"size": 48} for key in case.method["views"] if key in ("global", "neighbour_global")}
    method = merged(case.method, {"views": larger} if larger else {})
    backbone = str(data / case.backbone) if (data / case.backbone).exists() else case.backbone
    tree = tiny_run(name, data, data / "run", 1, method, backbone={"name": backbone}, train={"compile": compile})
    setup = Pretraining(validate(PretrainConfig, tree, "test"), World(), print, RunGuard())
    return setup, Passes(setup.placed().train().backbones)


def one_step(setup: Pretraining) -> tuple[Tensor, Tensor]:
    """Loss and gradients."""
    setup.method.zero_grad()
    setup.method.forget()
    loss = setup.method(Views.of(setup.loader().batch(0)), Progress(9, 10, 2))["loss"]
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in setup.method.parameters() if p.grad is not None])


AT_ONCE = {"dino", "dinov2"}  # of which one goes by the network's forward, the other by its tokens


@pytest.mark.parametrize("name", [name if name in AT_ONCE else pytest.param(name, marks=SLOW) for name in METHODS])
def test_every_pass_of_a_method_goes_through_graphs_and_computes_the_same(data, monkeypatch, name):
    """With the network compiled as a whole, DINOv2's passes through its tokens went past the graph."""
    torch._dynamo.reset()
    graphs = Graphs()
    monkeypatch.setattr(compiled_blocks, "INDUCTOR", graphs)
    setup, passes = placed(name, data, compile=True)
    loss, gradients = one_step(setup)
    assert graphs.ran == passes.total > 0
    sizes = {group.size for group in setup.method_config.recipe().groups.values()}
    assert max(map(len, passes.sizes.values())) == len(sizes)
    made = graphs.made
    one_step(setup)
    assert (graphs.made, graphs.ran) == (made, passes.total)
    plain_loss, plain_gradients = one_step(placed(name, data, compile=False)[0])
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-4, atol=1e-6)


def test_a_pass_for_health_makes_no_graph_of_its_own(data, monkeypatch):
    torch._dynamo.reset()
    graphs = Graphs()
    monkeypatch.setattr(compiled_blocks, "INDUCTOR", graphs)
    setup, _ = placed("dinov2", data, compile=True)
    one_step(setup)
    made, ran = graphs.made, graphs.ran
    with eagerly(setup.method.exported):
        setup.method.embed(Views.of(setup.loader().batch(0)))
    assert (graphs.made, graphs.ran) == (made, ran)
    one_step(setup)
    assert graphs.ran == 2 * ran
