import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from trocar.errors import ConfigError
from trocar.ssl.blocks.patches import Tokens

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}
DINOV3 = {"rope_type": "dinov3", "use_rot_pos_emb": True, "use_abs_pos_emb": False, "use_fc_norm": False}

NETWORKS = {
    "plain": lambda: VisionTransformer(**TINY),
    "several sizes and registers": lambda: VisionTransformer(**TINY, dynamic_img_size=True, reg_tokens=4),
    "dinov3": lambda: Eva(**TINY, **DINOV3, dynamic_img_size=True, num_reg_tokens=4),
    "beit": lambda: Beit(**TINY),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_token_stands_in_for_the_masked_patches_and_for_no_others(name):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    tokens = Tokens(network)
    x, token = torch.randn(2, 3, 16, 16), torch.randn(16)
    mask = torch.rand(2, 16) < 0.4
    with tokens.masked(mask, token):
        embedded = network.patch_embed(x).flatten(1, -2)
        features, patches = tokens(x)
    assert torch.equal(embedded[mask], token.expand(int(mask.sum()), 16))
    plain = network.patch_embed(x).flatten(1, -2)
    assert torch.equal(embedded[~mask], plain[~mask])
    assert (features.shape, patches.shape) == ((2, 16), (2, 16, 16))
    # the hook is gone, and what was computed with it is what the masked embeddings alone give
    whole, unmasked = tokens(x)
    assert torch.equal(whole, network(x))
    assert not torch.allclose(patches, unmasked)
    with tokens.masked(torch.zeros_like(mask), token):
        assert torch.equal(tokens(x)[1], unmasked)


def test_what_a_masked_patch_showed_changes_nothing():
    torch.manual_seed(0)
    network = NETWORKS["several sizes and registers"]().eval()
    tokens, x = Tokens(network), torch.randn(1, 3, 16, 16)
    other = x.clone()
    other[..., 4:8, 8:12] += 1  # the patch in row 1 and column 2
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 1 * 4 + 2] = True
    with tokens.masked(mask, torch.zeros(16)):
        assert torch.equal(tokens(x)[1], tokens(other)[1])
    assert not torch.equal(tokens(x)[1], tokens(other)[1])


def test_the_mask_token_gets_a_gradient_with_checkpointed_blocks_too():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = NETWORKS["several sizes and registers"]().train()
        network.set_grad_checkpointing(checkpointing)
        token = torch.zeros(16, requires_grad=True)
        with Tokens(network).masked(torch.arange(16)[None] < 5, token):
            features, _ = Tokens(network)(torch.randn(1, 3, 16, 16))
        features.square().sum().backward()
        gradients.append(token.grad)
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, rtol=1e-5)


def test_the_grid_is_that_of_the_views_not_of_the_model():
    tokens = Tokens(NETWORKS["several sizes and registers"]())
    assert tokens.grid(16) == (4, 4)
    assert tokens.grid(24) == (6, 6)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
        "pvt_v2_b0",
        "vit_base_patch16_siglip_224",
        "xcit_nano_12_p16_224",
    ],
)
def test_a_network_without_patches_or_class_token_is_refused_and_told_what_works(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    with pytest.raises(ConfigError, match=f"{type(network).__name__} is none; use vit_"):
        Tokens(network)
