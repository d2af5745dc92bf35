"""Samples that are dropped are not computed; what is learned is what the masked form with the same samples gives."""

import copy

import pytest
import torch
from timm.models.vision_transformer import Block, VisionTransformer

from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.blocks.transformer_blocks import add_branch, kept, skip_dropped

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}


def network(drop_path=0.4, **kwargs):
    torch.manual_seed(0)
    return VisionTransformer(**TINY, drop_path_rate=drop_path, **kwargs)


def skipping(drop_path=0.4, **kwargs):
    model = network(drop_path, **kwargs)
    skip_dropped(model)
    return model


def images(n=10):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def masked_forward(model, x):
    """All branches for all samples, in float64, times 0 or b / kept, with the samples that the same seed keeps."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))

    def factor(p):
        count = kept(len(x), p)
        mask = torch.zeros(len(x), 1, 1, dtype=x.dtype)
        mask[torch.randperm(len(x))[:count]] = len(x) / count
        return mask

    for block in model.blocks:
        p = getattr(block.drop_path1, "drop_prob", 0.0)
        x = x + (factor(p) if p else 1) * block.ls1(block.attn(block.norm1(x)))
        x = x + (factor(p) if p else 1) * block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x))


def test_output_and_gradients_are_those_of_the_masked_form_with_the_same_samples():
    """Of blocks with p = 0, 0.2 and 0.4."""
    found = []
    for model, forward in ((skipping(), lambda m, x: m(x)), (network(), masked_forward)):
        model, x = model.double(), images().double().requires_grad_()
        torch.manual_seed(5)
        out = forward(model, x)
        out.square().sum().backward()
        found.append({"out": out.detach(), "x": x.grad, **gradients(model)})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_branch_sees_the_samples_it_keeps_and_no_others():
    model, seen = skipping(), []
    for block in model.blocks:
        for branch in (block.attn, block.mlp):
            branch.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    model(images(10))
    assert seen == [10, 10, 8, 8, 6, 6]


def test_the_expected_value_is_that_of_the_whole_branch():
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    mean = torch.stack([add_branch([x], lambda some: [some[0] ** 2], 0.4)[0] for _ in range(4000)]).mean(0)
    # Each sample's branch is counted 7/4 times in 4 of 7 draws: a deviation of its mean by sqrt(3/4) / sqrt(4000).
    assert ((mean - x - x**2) / x**2).abs().max() < 5 * (0.75 / 4000) ** 0.5


def test_how_many_are_kept():
    rate = torch.linspace(0, 0.3, 4)[3].item()  # timm's, 0.30000001192
    assert [kept(10, rate), kept(8, 0.25), kept(3, 0.5), kept(1, 0.9)] == [7, 6, 2, 1]


def test_in_eval_mode_and_for_rates_up_to_a_tenth_the_bits_are_timms():
    x = images()
    with torch.no_grad():
        assert torch.equal(skipping().eval()(x), network().eval()(x))
        outputs = []
        for model in (skipping(0.1), network(0.1)):
            torch.manual_seed(3)
            outputs.append(model(x))
    assert torch.equal(*outputs)


def test_the_noise_follows_from_the_seed():
    model, x = skipping(), images()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_checkpointed_blocks_keep_the_same_samples_when_they_are_computed_again():
    found = []
    for checkpointing in (False, True):
        model = skipping()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(5)
        model(images()).square().sum().backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.slow
def test_compiled_blocks_are_one_graph_and_give_the_same():
    found = []
    for compiled in (False, True):
        model = skipping()
        for block in model.blocks:
            if compiled:
                block.compile(fullgraph=True, dynamic=False, backend="aot_eager")
        torch.manual_seed(5)
        out = model(images())
        out.square().sum().backward()
        found.append({"out": out.detach(), **gradients(model)})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_bfloat16_branches_are_added_to_float32_tokens():
    model = skipping()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(5)
        out = model(images())
    torch.manual_seed(5)
    assert (out.float() - model(images())).abs().max() < 0.1


def test_a_copy_has_blocks_of_its_own():
    model = skipping()
    double = copy.deepcopy(model)
    with torch.no_grad():
        for p in double.blocks.parameters():
            p.zero_()
    torch.manual_seed(5)
    assert not torch.equal(model(images()), double(images()))
    assert double.blocks[0].forward.__self__ is double.blocks[0]


def test_the_student_alone_skips_and_only_if_asked_to():
    def blocks(**config):
        networks = TimmNetworks(BackboneConfig(name="test_vit", drop_path=0.3, **config), seed=0, sizes=[64, 32])
        return networks.student().blocks, networks.teacher().blocks

    student, teacher = blocks(drop_path_mode="skip")
    assert all(type(block) is Block for block in student)
    assert all("forward" in vars(block) for block in student)
    assert not any("forward" in vars(block) for block in teacher)
    assert not any("forward" in vars(block) for part in blocks() for block in part)


def test_a_network_with_other_blocks_is_refused():
    networks = TimmNetworks(BackboneConfig(name="test_convnext", drop_path=0.3, drop_path_mode="skip"), 0, [64])
    with pytest.raises(ConfigError, match=r"drop_path_mode: only timm's plain vision transformers.*use mask"):
        networks.student()
