"""DINOv2 against the published losses, worked out in float64 numpy from the outputs of its networks."""

import copy
import math

import numpy as np
import pytest
import torch
from method_factory import DATA, START, build, convolutional, some_views
from timm.models.vision_transformer import VisionTransformer

from trocar.errors import ConfigError
from trocar.ssl.blocks.patches import Masking, Tokens, block_masks
from trocar.ssl.engine.method import Progress
from trocar.ssl.methods import default

TINY = {"prototypes": 12, "hidden": 16, "bottleneck": 8}
TWO_HEADS = {"ibot_head": {**TINY, "prototypes": 9}}
VIEWS = {"global": {"size": 16}, "local": {"count": 3, "size": 8}}


def transformer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=16,
            patch_size=4,
            embed_dim=6,
            depth=2,
            num_heads=2,
            num_classes=0,
            dynamic_img_size=True,
            reg_tokens=2,
        )


def config(**changes):
    return default("dinov2", **{"views": VIEWS, "head": TINY, **changes})


def method(**changes):
    return build(config(**changes), transformer)


def views_of(b=6, seed=0):
    return some_views(config(), b, seed)


def test_defaults_are_the_published_recipe():
    published = default("dinov2")
    assert (published.head.prototypes, published.head.hidden, published.head.bottleneck) == (65536, 2048, 256)
    assert published.ibot_head is None
    assert (published.dino_weight, published.ibot_weight, published.koleo_weight) == (1, 1, 0.1)
    assert (published.warmup_teacher_temperature, published.teacher_temperature) == (0.04, 0.07)
    assert published.teacher_temperature_warmup == "30 epochs"
    assert (published.student_temperature, published.momentum, published.centre_momentum) == (0.1, 0.992, 0.9)
    assert (published.centring, published.freeze_last_layer) == ("mean", "1 epoch")
    masking = published.masking
    assert (masking.probability, masking.ratio, masking.smallest, masking.aspect) == (0.5, (0.1, 0.5), 4, 0.3)
    first, local = published.recipe().groups.values()
    assert (first.count, first.size, first.scale) == (2, 224, (0.32, 1.0))
    assert (local.count, local.size, local.scale) == (8, 96, (0.05, 0.32))
    assert (first.per_view("solarize"), first.interpolation, local.interpolation) == ([0.0, 0.2], "bicubic", "bicubic")


def test_blur_is_what_the_reference_s_inverted_probability_came_to():
    """It hands 1 - p to torchvision's RandomApply, which applies with the p that it is given."""
    first, local = default("dinov2").recipe().groups.values()
    assert first.per_view("blur") == pytest.approx([1 - 1.0, 1 - 0.1])
    assert local.per_view("blur") == pytest.approx([1 - 0.5] * 8)


def test_the_teacher_s_temperature_rises_with_every_step():
    """The reference: numpy.linspace over all iterations of the warm-up epochs. DINO's has one value per epoch."""
    expected = np.concatenate([np.linspace(0.04, 0.07, 30 * 5), np.full(10, 0.07)])
    dinov2 = default("dinov2")
    ours = [dinov2.temperature_at(Progress(step, 200, epoch_steps=5)) for step in range(160)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    in_stairs = default("dinov2", teacher_temperature_stairs=True)
    by_epoch = np.repeat(np.linspace(0.04, 0.07, 30), 5)
    ours = [in_stairs.temperature_at(Progress(step, 200, epoch_steps=5)) for step in range(150)]
    np.testing.assert_allclose(ours, by_epoch, rtol=1e-12)


@pytest.mark.parametrize("heads", [{}, TWO_HEADS])
def test_lengths_of_prototypes_start_at_one_and_train_and_a_head_given_in_part_keeps_that(heads):
    dino = method(**heads).train()
    dino.loss(views_of(), START)["loss"].backward()
    for head in filter(None, (dino.student_head, dino.student_patch_head)):
        lengths = dict(head.last_layer.named_parameters())["weight_g"]
        assert torch.equal(lengths, torch.ones_like(lengths))
        assert lengths.grad is not None
        assert lengths.grad.abs().max() > 0


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def balanced(logits, temperature):
    """SwAV's appendix: prototypes and samples alternately brought to equal sums."""
    q = np.exp(logits / temperature)
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(0) * q.shape[1]
        q /= q.sum(1, keepdims=True) * len(q)
    return q * len(q)


def cross_entropy(target, logits):
    return -(target * np.log(softmax(logits / 0.1))).sum(-1)


def published_losses(dino, views, masks, centring, centres, temperature):
    """Sum over the two global views v and their masked patches, from the networks' outputs. masks bool[2, b, N]."""
    student_patches = dino.student_patch_head or dino.student_head
    teacher_patches = dino.teacher_patch_head or dino.teacher_head
    of_student, of_teacher, features, patch_terms, patch_targets = [], [], [], [], []
    for v in range(2):
        x = views["global"][:, v]
        with Tokens(dino.student).masked(torch.from_numpy(masks[v]), dino.mask_token):
            pooled, patches = Tokens(dino.student)(x)
        seen, seen_patches = Tokens(dino.teacher)(x)
        features.append(pooled)
        of_student.append(dino.student_head(pooled))
        of_teacher.append(dino.teacher_head(seen))
        patch_terms.append(student_patches(patches))
        patch_targets.append(teacher_patches(seen_patches))
    of_student += [dino.student_head(dino.student(views["local"][:, v])) for v in range(3)]
    student, teacher, z, patch_student, patch_teacher = (
        torch.stack(x).detach().double().numpy() for x in (of_student, of_teacher, features, patch_terms, patch_targets)
    )
    if centring == "sinkhorn":
        target = balanced(teacher.reshape(-1, teacher.shape[-1]), temperature).reshape(teacher.shape)
        masked_target = balanced(patch_teacher[masks], temperature)
    else:
        target = softmax((teacher - centres[0]) / temperature)
        masked_target = softmax((patch_teacher[masks] - centres[1]) / temperature)
    dino_terms = [cross_entropy(target[t], student[v]).mean() for t in range(2) for v in range(5) if v != t]
    terms = np.zeros(masks.shape)
    terms[masks] = cross_entropy(masked_target, patch_student[masks])
    ibot = np.mean(terms.sum(-1) / np.maximum(masks.sum(-1), 1))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    distances = np.linalg.norm(z[:, :, None] - z[:, None], axis=-1) + np.diag([np.inf] * z.shape[1])
    return np.mean(dino_terms), ibot, -np.log(distances.min(-1)).mean(-1).sum()


@pytest.mark.parametrize("centring", ["mean", "sinkhorn"])
@pytest.mark.parametrize("heads", [{}, TWO_HEADS])
def test_the_loss_is_dino_s_and_ibot_s_and_a_tenth_of_koleo_s(heads, centring):
    dino, views = method(centring=centring, **heads).train(), views_of()
    with torch.no_grad():  # a student that isn't its teacher, centres that aren't zero
        for p in dino.student.parameters():
            p.add_(0.1 * torch.randn_like(p))
        dino.mask_token.normal_()
        dino.centre.normal_().mul_(0.1)
        dino.patch_centre.normal_().mul_(0.1)
    masks = block_masks(views.mask_seed[:, :2].T, 4, 4, Masking()).reshape(2, 6, 16)
    assert 0 < masks.any(-1).sum() < 12
    centres = [c.double().numpy() for c in (dino.centre, dino.patch_centre)]
    losses = {name: float(value.detach()) for name, value in dino.loss(views, START).items()}
    expected = published_losses(dino, views, masks, centring, centres, 0.04)
    found = [losses[name] for name in ("dino_loss", "ibot_loss", "koleo_loss")]
    assert found == pytest.approx(expected, rel=1e-3)
    assert losses["loss"] == pytest.approx(expected[0] + expected[1] + 0.1 * expected[2], rel=1e-3)
    assert losses["masked_patches"] == pytest.approx(masks.mean())


def test_weights_are_those_asked_for():
    dino = method(dino_weight=0.5, ibot_weight=2.0, koleo_weight=0.3)
    losses = {name: float(value.detach()) for name, value in dino.loss(views_of(), START).items()}
    parts = 0.5 * losses["dino_loss"] + 2 * losses["ibot_loss"] + 0.3 * losses["koleo_loss"]
    assert losses["loss"] == pytest.approx(parts)


def test_the_student_sees_masked_global_views_in_one_pass_and_the_teacher_whole_ones():
    dino = method().train()
    seen = {"student": [], "teacher": []}
    for name in seen:
        getattr(dino, name).norm_pre.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0]))
    dino.student.load_state_dict(dino.teacher.state_dict())
    with torch.no_grad():
        dino.mask_token.fill_(100.0)
    dino.loss(views_of(), START)
    assert [x.shape[:2] for x in seen["student"]] == [(12, 3 + 16), (18, 3 + 4)]
    assert [x.shape[:2] for x in seen["teacher"]] == [(12, 3 + 16)]
    masks = block_masks(views_of().mask_seed[:, :2].T, 4, 4, Masking()).reshape(12, 16)
    differs = (seen["student"][0] != seen["teacher"][0])[:, 3:].any(-1)
    assert torch.equal(differs, torch.from_numpy(masks))


def test_gradients_reach_the_student_its_heads_and_the_mask_token_but_no_teacher():
    dino = method(**TWO_HEADS).train()
    dino.loss(views_of(), START)["loss"].backward()
    for name, parameter in dino.named_parameters():
        is_teacher = name.startswith("teacher")
        assert parameter.requires_grad == (not is_teacher)
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert dino.mask_token.grad.abs().sum() > 0


def test_ibot_alone_trains_no_class_head_and_dino_alone_no_patch_head():
    for weights, still in (({"dino_weight": 0.0}, "student_head"), ({"ibot_weight": 0.0}, "student_patch_head")):
        dino = method(**TWO_HEADS, **weights).train()
        dino.loss(views_of(), START)["loss"].backward()
        moving = {n.split(".")[0] for n, p in dino.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moving == {"student", "student_head", "student_patch_head", "mask_token"} - {still}


def test_views_without_a_mask_give_no_patch_loss_and_leave_the_patch_centre():
    dino = method(masking={"probability": 0.0}).train()
    with torch.no_grad():
        dino.patch_centre.normal_()
    before = dino.patch_centre.clone()
    losses = dino.loss(views_of(), START)
    losses["loss"].backward()
    dino.after_step(START)
    assert losses["ibot_loss"].item() == 0
    assert dino.mask_token.grad.abs().sum() == 0
    assert torch.equal(dino.patch_centre, before)
    assert not torch.equal(dino.centre, torch.zeros(12))


def test_loss_changes_no_state_and_after_step_moves_teacher_heads_and_centres():
    dino = method(momentum=0.9, **TWO_HEADS).train()
    before = copy.deepcopy(dino.state_dict())
    dino.loss(views_of(), START)
    assert all(torch.equal(value, before[key]) for key, value in dino.state_dict().items())
    with torch.no_grad():
        for p in dino.parameters():
            p.add_(p.requires_grad)
    dino.after_step(START)
    for name, ours in dino.named_parameters():
        if name.startswith("student"):
            key = name.replace("student", "teacher", 1)
            assert torch.allclose(dino.state_dict()[key], 0.9 * before[key] + 0.1 * ours, atol=1e-6)
    assert not torch.equal(dino.centre, before["centre"])
    assert not torch.equal(dino.patch_centre, before["patch_centre"])


def test_the_patch_centre_moves_to_the_mean_over_all_masked_patches_however_the_batch_is_cut():
    views = views_of(8)
    masks = torch.from_numpy(block_masks(views.mask_seed[:, :2], 4, 4, Masking())).flatten(2)
    assert masks[:4].sum() != masks[4:].sum()
    for parts in (1, 2):
        dino = method().train()
        _, patches = Tokens(dino.teacher)(views["global"].flatten(0, 1))
        mean = dino.teacher_head(patches[masks.flatten(0, 1)]).mean(0)
        for piece in views.split(parts):
            dino.loss(piece, START)
        dino.after_step(START)
        assert torch.allclose(dino.patch_centre, 0.1 * mean, atol=1e-6)


def test_a_refused_step_leaves_no_trace():
    dino, only_second = method().train(), method().train()
    dino.loss(views_of(seed=1), START)
    dino.forget()
    for one in (dino, only_second):
        one.loss(views_of(seed=2), START)
        one.after_step(START)
    assert all(torch.equal(value, only_second.state_dict()[key]) for key, value in dino.state_dict().items())


def test_the_last_layers_of_both_heads_are_frozen_for_the_first_epoch_only():
    dino = method(**TWO_HEADS).train()
    for step, frozen in ((0, True), (4, True), (5, False)):
        dino.zero_grad(set_to_none=True)
        dino.loss(views_of(), Progress(step, 10, 5))["loss"].backward()
        dino.gradients_ready(Progress(step, 10, 5))
        for head in (dino.student_head, dino.student_patch_head):
            assert (head.last_layer.weight_v.grad is None) == frozen


def test_temperature_and_momentum_follow_their_schedules():
    dino = method(teacher_temperature_warmup="4 epochs")
    for step, temperature in ((0, 0.04), (5, 0.04 + 0.03 * 5 / 19), (19, 0.07), (25, 0.07)):
        progress = Progress(step, 40, 5)
        dino.loss(views_of(), progress)
        logged = dino.after_step(progress)
        assert logged["teacher_temperature"] == pytest.approx(temperature)
        assert logged["momentum"] == pytest.approx(1 - 0.008 * (1 + math.cos(math.pi * step / 40)) / 2)


def test_ln_k_is_the_dino_loss_of_uniform_outputs():
    dino = method().train()
    with torch.no_grad():
        for head in (dino.student_head, dino.teacher_head):
            head.last_layer.weight_v.copy_(torch.ones_like(head.last_layer.weight_v))
    losses = dino.loss(views_of(), START)
    assert losses["dino_loss"].item() == pytest.approx(dino.reference_loss(), rel=1e-5)
    assert losses["loss"].item() != pytest.approx(dino.reference_loss(), rel=0.1)


def test_local_views_may_be_left_out():
    changes = {"views": {"global": {"size": 16}, "local": None}}
    losses = method(**changes).loss(some_views(config(**changes)), START)
    assert torch.isfinite(losses["loss"])


def test_a_convolutional_backbone_is_refused_and_told_what_works():
    with pytest.raises(ConfigError, match="Sequential is none; use vit_small_patch16_224"):
        build(config(), convolutional)


def test_a_head_of_patches_with_batch_norm_is_refused():
    with pytest.raises(ConfigError, match="batch_norm"):
        method(head={**TINY, "batch_norm": True})


def test_auto_and_advice_reach_both_heads():
    auto = config(head={"prototypes": "auto"}, ibot_head={"prototypes": "auto"}, momentum="auto").resolved(DATA)
    assert (auto.head.prototypes, auto.ibot_head.prototypes, auto.momentum) == (128, 128, 0.99)
    lines = " ".join(default("dinov2", ibot_head={}).warnings(DATA))
    assert all(key in lines for key in ("head.prototypes", "ibot_head.prototypes", "momentum", "teacher_temperature"))
