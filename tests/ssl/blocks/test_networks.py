"""Backbones for pretraining, from wherever their first weights come."""

import torch

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks


def test_an_exported_vision_transformer_of_one_size_is_a_start_for_views_of_several(tmp_path):
    exported = load_backbone("vit_tiny_patch16_224", seed=3).eval()
    save_backbone(exported, tmp_path / "b", extra={})
    networks = TimmNetworks(BackboneConfig(name=str(tmp_path / "b")), seed=0, sizes=[64, 32])
    assert networks.width == exported.num_features
    student = networks.student().eval()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(x), exported(x))
        assert student(x[..., :32, :32]).shape == (1, exported.num_features)
