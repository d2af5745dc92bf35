"""FLOPs and bytes of tiny networks against counting by hand."""

import copy

import pytest
import timm
import torch
from method_factory import build
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trocar.ssl.blocks.anchor import AnchorConfig, build_anchor
from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.engine.method import Progress
from trocar.ssl.engine.optimizer import OptimConfig
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.methods import default
from trocar.ssl.methods.dino import DinoConfig, DinoViews
from trocar.ssl.methods.simclr import SimclrConfig
from trocar.ssl.run.run_description import cost_lines, empty_views, estimate

NOW = Progress(5, 10, 5)
ADAMW = OptimConfig()


class Sum(nn.Module):
    """The sum of the outputs as loss: a sum keeps nothing for its backward pass."""

    feature_anchor = None

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, views, progress):
        return {"loss": self.net(views).sum()}


def cost(method, shape, optim=ADAMW, ranks=1, **train):
    config = TrainConfig(steps=1, **{"batch": 6, **train})
    return estimate(method, lambda b, device: torch.empty(b, *shape, device=device), config, optim, ranks, NOW)


def test_flops_of_a_linear_layer_are_three_products_but_for_the_first_layer():
    method = Sum(nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)))
    # forward, gradient of the weight; only the second layer needs the gradient of its input
    assert cost(method, (5,)).flops == 6 * 2 * (2 * 5 * 7 + 3 * 7 * 3)


def test_flops_of_convolutions_are_right_for_depthwise_ones_too():
    method = Sum(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 5, padding=2, groups=4), nn.Conv2d(4, 6, 1)))
    first, depthwise, last = 36 * 9 * 3 * 4, 36 * 25 * 4, 36 * 4 * 6
    assert cost(method, (3, 8, 8)).flops == 6 * 2 * (2 * first + 3 * depthwise + 3 * last)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1, 1))

    def forward(self, x):
        q, k, v = (x * s for s in self.scale)
        return F.scaled_dot_product_attention(q, k, v)


def test_flops_of_attention_are_counted():
    """Two products forward, five backward (the scores are computed again), of 2 heads, 9 tokens and width 8."""
    assert cost(Sum(Attention()), (2, 9, 8)).flops == 6 * 2 * (2 + 5) * 2 * 9 * 9 * 8


def test_flops_are_of_the_global_batch_and_memory_of_the_micro_batch():
    method = Sum(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    whole, part = cost(method, (5,), batch=24), cost(method, (5,), batch=24, ranks=2, accumulate=3)
    assert part.flops == whole.flops
    assert (whole.micro_batch, part.micro_batch) == (24, 4)
    assert whole.activations == 6 * part.activations


def test_saved_bytes_of_an_mlp_are_its_input_and_hidden_layer():
    method = Sum(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    assert cost(method, (5,)).activations == 6 * (5 + 7) * 4
    # and in half of the bytes, beside which autocast's copy of the second weight is kept
    assert cost(method, (5,), precision="bfloat16").activations == (6 * (5 + 7) + 7 * 3) * 2


def test_optimizer_state_is_two_moments_or_one():
    method = Sum(nn.Linear(5, 7))
    sgd = {"name": "sgd", "lr": 0.1, "weight_decay": 0}
    found = [cost(method, (5,), OptimConfig.model_validate(o)).optimizer for o in ({}, sgd, sgd | {"momentum": 0})]
    assert found == [42 * 4 * 2, 42 * 4, 0]


VIEWS = DinoViews.model_validate({"global": {"size": 32}, "local": {"count": 3, "size": 16}})
DINO = DinoConfig(views=VIEWS, head=DinoHead(prototypes=12, hidden=16, bottleneck=8))


def dino():
    return build(DINO, lambda: timm.create_model("test_vit", num_classes=0, dynamic_img_size=True), width=64)


def dino_views(batch, device):
    return empty_views(DINO.recipe(), batch, torch.device(device))


def test_an_estimate_of_dino_counts_its_parameters_and_leaves_it_alone():
    method = dino()
    method.loss(dino_views(2, "cpu"), NOW)  # a norm that was computed
    method.forget()
    before = copy.deepcopy({k: v.clone() for k, v in method.state_dict().items()})
    found = estimate(method, dino_views, TrainConfig(batch=8, steps=1), ADAMW, 2, NOW)
    trained = [p for p in method.parameters() if p.requires_grad]
    assert found.trainable == sum(p.numel() for p in trained)
    assert found.parameters == sum(p.numel() for p in method.parameters())
    assert found.weights == sum(t.nbytes for t in method.state_dict().values())
    # also with two ranks: the gradients are views of the buckets of DistributedDataParallel
    assert 2 * found.gradients == found.optimizer == 2 * sum(p.nbytes for p in trained)
    assert found.memory == found.weights + found.gradients + found.optimizer + found.activations
    after = method.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert method._mean._sums == []


def test_weights_in_parts_are_divided_by_the_ranks_and_activations_are_not():
    whole, parts = (
        estimate(dino(), dino_views, TrainConfig(batch=8, steps=1, shard=shard), ADAMW, 4, NOW)
        for shard in ("none", "full")
    )
    buffers = sum(b.nbytes for b in dino().buffers())
    assert 4 * (parts.weights - buffers) - (whole.weights - buffers) in range(4)  # rounded up
    assert 4 * parts.gradients - whole.gradients in range(4)
    assert parts.optimizer == 2 * parts.gradients
    assert parts.activations == whole.activations
    assert "a part in 4 of all but activations" in parts.lines()[-1]
    assert "a part in" not in whole.lines()[-1]


def test_a_frozen_teacher_counts_with_its_weights_and_its_forward_pass():
    """One with batch norm; it is no part of the method's own parameters."""
    weights = {"distance": 0, "angle": 0}
    config = default("distillation", teacher={"name": "any"}, views={"size": 16, "count": 1}, weights=weights)
    method = build(config)
    held = method.teacher.network
    found = estimate(
        method, lambda b, d: empty_views(config.recipe(), b, d), TrainConfig(batch=4, steps=1), ADAMW, 1, NOW
    )
    own, theirs = (sum(p.numel() for p in m.parameters()) for m in (method, held))
    assert (found.trainable, found.parameters) == (own, own + theirs)
    buffers = [*method.buffers(), *held.buffers()]
    assert found.weights == 4 * (own + theirs) + sum(b.nbytes for b in buffers)
    # 49 places of 27 inputs: the student with the gradient of its weight, the teacher forward only; the projector
    assert found.flops == 4 * 2 * (49 * 27 * (2 * 6 + 10) + 3 * 6 * 10)


def test_saved_bytes_are_those_of_a_real_pass():
    """The same hooks on a real forward pass; storages told apart by their address while all of them live."""
    method = dino().train()
    found = estimate(method, dino_views, TrainConfig(batch=4, steps=1), ADAMW, 1, NOW)
    own = {t.data_ptr() for t in method.state_dict().values()}
    saved = {}

    def pack(x):
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = method.loss(dino_views(4, "cpu"), NOW)
    assert loss["loss"].requires_grad
    real = sum(s.nbytes() for address, s in saved.items() if address not in own)
    assert found.activations == pytest.approx(real, rel=0.01)


def forward_flops(module, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_convolutional_backbone_costs_three_forward_passes_but_for_its_first_layer(name):
    net, x = timm.create_model(name, num_classes=0), torch.zeros(1, 3, 64, 64)
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert cost(Sum(net), (3, 64, 64), batch=1).flops == 3 * forward_flops(net, x) - forward_flops(first, x)


def test_the_lines_name_parameters_flops_and_memory():
    method = Sum(nn.Linear(5, 7))
    train = TrainConfig(batch=4, steps=1)
    parameters, step, memory = cost_lines(method, lambda b, d: torch.empty(b, 5), train, ADAMW, 1, NOW)
    found = cost(method, (5,), batch=4)
    assert parameters.startswith(f"parameters {found.trainable / 1e6:.2f} M that train")
    assert step.startswith(f"step       {found.flops / 1e12:.3g} TFLOP over all ranks")
    assert "GiB per rank: weights" in memory
    assert "micro-batch of 4" in memory


def test_a_method_whose_work_depends_on_values_says_so():
    class Looks(Sum):
        def forward(self, views, progress):
            return {"loss": self.net(views).sum() * float(views.sum())}

    lines = cost_lines(
        Looks(nn.Linear(5, 7)), lambda b, d: torch.empty(b, 5), TrainConfig(batch=4, steps=1), ADAMW, 1, NOW
    )
    assert len(lines) == 1
    assert lines[0].startswith("step       cost unknown: ")


def test_an_anchor_costs_a_forward_pass_of_the_views_that_the_student_sees():
    config = SimclrConfig.model_validate({"views": {"size": 64}, "head": {"layers": [8]}})
    networks = TimmNetworks(BackboneConfig(name="test_convnext"), 0, [64])
    method = config.build(networks)
    method.feature_anchor = build_anchor(AnchorConfig(kind="cosine", start="90 %"), method, networks)
    train, late = TrainConfig(batch=4, steps=1), Progress(9, 10, 5)

    def views(batch, device):
        return empty_views(config.recipe(), batch, device)

    found = estimate(method, views, train, ADAMW, 1, late)
    with FlopCounterMode(display=False) as counter:
        method.feature_anchor.held[0](torch.zeros(8, 3, 64, 64))
    assert found.anchor_flops == counter.get_total_flops()
    assert any("% of it for the anchor" in line for line in found.lines())
    assert estimate(method, views, train, ADAMW, 1, NOW).anchor_flops == 0
