"""Views of several sizes in one pass are what they are size by size: outputs, gradients, losses of every method."""

import copy

import pytest
import torch
from method_factory import START, build, some_views
from timm.models.vision_transformer import Block, VisionTransformer

from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.blocks.transformer_blocks import kept, pack_views, packed_features, skip_dropped
from trocar.ssl.methods import default

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
HEAD = {"prototypes": 12, "hidden": 16, "bottleneck": 8}
SIZES = {"global": {"size": 16}, "local": {"count": 3, "size": 8}}
NEIGHBOURS = {"neighbour_global": {"size": 16}, "neighbour_local": {"count": 2, "size": 8}}
SWAV_HEAD = {"layers": [16, 8], "batch_norm": False, "last_batch_norm": False}
METHODS = {
    "dino": {"views": SIZES, "head": HEAD},
    "dinov2": {"views": SIZES, "head": HEAD, "masking": {"smallest": 1}},
    "swav": {"views": SIZES, "prototypes": 12, "head": SWAV_HEAD},
    "augmented_distillation": {"views": {**SIZES, **NEIGHBOURS}, "head": HEAD},
}
KINDS = {
    "plain": {},
    "registers, scaled layers, normed queries": {"reg_tokens": 2, "init_values": 0.5, "qk_norm": True},
    "mean of patches": {"global_pool": "avg", "class_token": False},
}


def network(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(**TINY, dynamic_img_size=True, **kwargs)


def packing(**kwargs):
    model = network(**kwargs)
    pack_views(model)
    return model


def images(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, size, size, generator=generator).double() for n, size in ((4, 16), (6, 8), (2, 12))]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(found, wanted, tolerance=1e-10):
    """To a share of each tensor's largest value."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert (value - wanted[name]).abs().max() <= tolerance * wanted[name].abs().max() + 1e-15, name


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_gradients_are_those_of_each_size_alone(kind):
    found = []
    for model, run in ((packing(**KINDS[kind]), packed_features), (network(**KINDS[kind]), lambda m, x: map(m, x))):
        out = dict(enumerate(run(model.double(), images())))
        sum((i + 1) * x.square().sum() for i, x in out.items()).backward()
        found.append({**out, **gradients(model)})
    same(*found)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_a_method_is_the_same(name):
    config, found = default(name, **METHODS[name]), []
    for make in (packing, network):
        method = build(config, make, width=16)
        losses = method.loss(some_views(config, b=6), START)
        losses["loss"].backward()
        found.append({**{k: x.detach() for k, x in losses.items()}, **gradients(method)})
    same(*found, tolerance=1e-4)
    assert len(found[0]) > 40


def test_no_token_meets_one_of_another_sample():
    model, (large, small, _) = packing().double().eval(), images()
    before = packed_features(model, [large, small])
    changed = small.clone()
    changed[0] += 1
    after = packed_features(model, [large, changed])
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][1:], after[1][1:])
    assert not torch.equal(before[1][0], after[1][0])


def test_linear_layers_see_all_sizes_at_once():
    model, seen = packing().double(), []
    for block in model.blocks:
        for layer in (block.norm1, block.attn.qkv, block.attn.proj, block.mlp):
            layer.register_forward_hook(lambda module, inputs, out: seen.append(tuple(inputs[0].shape)))
    packed_features(model, images())
    assert set(seen) == {(4 * 17 + 6 * 5 + 2 * 10, 16)}
    assert len(seen) == 12


def test_stochastic_depth_drops_samples_of_each_size():
    model = packing(drop_path_rate=0.4).double()
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):  # a branch then adds 1 wherever it is kept
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.ones_(layer.bias)
    tokens = [torch.zeros(300, 5, 16).double(), torch.zeros(200, 2, 16).double()]
    torch.manual_seed(0)
    for x in model.blocks[2](tokens):
        assert torch.equal(x, x[:, :1, :1].expand_as(x))  # a sample's tokens share their fate
        share = [float(((x[:, 0, 0] * 0.6).round() == n).double().mean()) for n in (0, 1, 2)]
        assert share == pytest.approx([0.16, 0.48, 0.36], abs=0.1)


def test_what_is_skipped_is_not_computed_and_equals_the_same_samples_alone():
    model, lengths = network(drop_path_rate=0.4), []
    skip_dropped(model)
    pack_views(model)
    model = model.double()
    model.blocks[2].mlp.register_forward_hook(lambda module, inputs, out: lengths.append(len(inputs[0])))
    large, small = torch.randn(10, 17, 16).double(), torch.randn(6, 5, 16).double()
    torch.manual_seed(3)
    found = model.blocks[2]([large, small])
    assert lengths == [kept(10, 0.4) * 17 + kept(6, 0.4) * 5]
    torch.manual_seed(3)
    draws = [[torch.randperm(n)[: kept(n, 0.4)] for n in (10, 6)] for _ in range(2)]
    block = model.blocks[2]
    for i, x in enumerate((large, small)):
        x = x + among(x, draws[0][i]) * block.attn(block.norm1(x))
        x = x + among(x, draws[1][i]) * block.mlp(block.norm2(x))
        torch.testing.assert_close(found[i], x, rtol=1e-9, atol=1e-12)


def among(x, rows):
    """A factor for each sample: 0, or what makes up for the others where it is one of `rows`."""
    factor = torch.zeros(len(x), 1, 1).double()
    factor[rows] = len(x) / len(rows)
    return factor


@pytest.mark.parametrize("skip", [False, True])
def test_checkpointed_blocks_compute_the_same_again(skip):
    found = []
    for checkpointing in (False, True):
        model = network(drop_path_rate=0.4)
        if skip:
            skip_dropped(model)
        pack_views(model)
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(5)
        sum(x.square().sum() for x in packed_features(model, [x.float() for x in images()])).backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_a_single_size_keeps_its_bits():
    x = images()[0].float()
    assert torch.equal(packing()(x), network()(x))
    for skip in (False, True):
        outputs = []
        for pack in (False, True):
            model = network(drop_path_rate=0.4)
            if skip:
                skip_dropped(model)
            if pack:
                pack_views(model)
            torch.manual_seed(2)
            outputs.append(model(x))
        assert torch.equal(*outputs)


@pytest.mark.slow
def test_compiled_blocks_are_one_graph_and_give_the_same():
    found = []
    for compiled in (False, True):
        model = packing()
        for block in model.blocks:
            if compiled:
                block.compile(fullgraph=True, dynamic=False, backend="aot_eager")
        out = dict(enumerate(packed_features(model, [x.float() for x in images()])))
        sum(x.square().sum() for x in out.values()).backward()
        found.append({**out, **gradients(model)})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-5, msg=str(name))


def test_a_copy_has_blocks_of_its_own():
    model = packing()
    double = copy.deepcopy(model)
    with torch.no_grad():
        for p in double.blocks.parameters():
            p.zero_()
    views = [x.float() for x in images()]
    assert not torch.equal(packed_features(model, views)[0], packed_features(double, views)[0])


def test_the_student_alone_packs_and_only_if_asked_to():
    def blocks(**config):
        networks = TimmNetworks(BackboneConfig(name="test_vit", **config), seed=0, sizes=[64, 32])
        return networks.student().blocks, networks.teacher().blocks

    student, teacher = blocks(pack_views=True)
    assert all(type(block) is Block and "forward" in vars(block) for block in student)
    assert not any("forward" in vars(block) for part in (teacher, *blocks()) for block in part)


@pytest.mark.parametrize("name", ["test_convnext", "eva02_tiny_patch14_224"])
def test_a_network_that_cannot_pack_is_refused(name):
    networks = TimmNetworks(BackboneConfig(name=name, pack_views=True), 0, [64])
    with pytest.raises(ConfigError, match=r"pack_views: only timm's plain vision transformers.*set it to false"):
        networks.student()
