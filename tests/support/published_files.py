"""Random weights in the layout of published files, and an independent forward of the same weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from reference_caformer import CAFormer
from reference_convnextv2 import ConvNeXtV2
from reference_efficientnet import EfficientNetLite0
from reference_pvtv2 import PVTv2
from reference_vit import ViT, randomise
from torch import Tensor, nn

Wrap = Callable[[dict[str, Tensor]], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One published file: an entry's name, the reference network, how the file nests its weights."""

    name: str
    network: Callable[[], nn.Module]
    wrap: Wrap
    size: int = 64
    """Pixels of the test picture; models with a position table need their own."""

    def build(self, seed: int = 7) -> tuple[nn.Module, dict[str, Any]]:
        """The reference network in eval mode, and the file content."""
        network = self.network().eval()
        randomise(network, seed)
        return network, self.wrap({k: v for k, v in network.state_dict().items() if k not in DROPPED})


DROPPED = ("fc.weight", "fc.bias", "classifier.2.weight", "classifier.2.bias")


def flat(state: dict[str, Tensor]) -> dict[str, Any]:
    return dict(state)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def dino_training(state: dict[str, Tensor]) -> dict[str, Any]:
    """facebookresearch/dino's checkpoint: DDP around the student, other weights in it, heads in both."""
    head = {"head.mlp.0.weight": torch.zeros(4, 4), "head.last_layer.weight_g": torch.ones(4, 1)}
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    return {
        "student": prefixed(prefixed(other, "backbone.") | head, "module."),
        "teacher": prefixed(state, "backbone.") | head,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 50,
        "args": argparse.Namespace(arch="vit_small", out_dim=65536),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }


def dinov2_teacher(state: dict[str, Tensor]) -> dict[str, Any]:
    heads = {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.last_layer.weight": torch.zeros(4, 4)}
    return {"teacher": prefixed(state, "backbone.") | heads}


def dinov2_trainer(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    model = prefixed(state, "teacher.backbone.") | prefixed(other, "student.backbone.")
    model |= {"teacher.dino_head.mlp.0.weight": torch.zeros(4, 4), "dino_loss.center": torch.zeros(1, 4)}
    return {"model": model, "iteration": 10}


def mocov3_training(state: dict[str, Tensor]) -> dict[str, Any]:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    heads = {"base_encoder.head.0.weight": torch.zeros(4, 4), "predictor.0.weight": torch.zeros(4, 4)}
    weights = prefixed(state, "base_encoder.") | prefixed(other, "momentum_encoder.") | heads
    return {"epoch": 300, "arch": "vit_small", "state_dict": prefixed(weights, "module.")}


def vissl(state: dict[str, Tensor]) -> dict[str, Any]:
    trunk = prefixed(state, "_feature_blocks.")
    model = {"trunk": trunk, "heads": {"0.clf.0.weight": torch.zeros(4, 4)}}
    return {
        "phase_idx": 3,
        "classy_state_dict": {"base_model": {"model": model, "meta": {"input_shape": [3, 224, 224]}}},
    }


def mae(state: dict[str, Tensor]) -> dict[str, Any]:
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.zeros(8), "decoder_pred.bias": torch.zeros(8)}
    return {"model": dict(state) | decoder, "epoch": 14}


def image_text(state: dict[str, Tensor]) -> dict[str, Any]:
    text = {"backbone_text.model.embeddings.word_embeddings.weight": torch.zeros(6, 4)}
    return prefixed(state, "backbone_img.model.") | {"backbone_img.global_embedder.weight": torch.zeros(4, 4)} | text


def resnet() -> nn.Module:
    network = torchvision.models.resnet50()
    network.fc = nn.Identity()
    return network


class ConvNeXtL(nn.Module):
    """torchvision's, with the names of a backbone whose classifier ends after its norm."""

    def __init__(self) -> None:
        super().__init__()
        whole = torchvision.models.convnext_large()
        self.features, self.avgpool = whole.features, whole.avgpool
        self.classifier = nn.Sequential(whole.classifier[0], nn.Flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.avgpool(self.features(images)))
        return out


def ibot_teacher(state: dict[str, Tensor]) -> dict[str, Any]:
    """bytedance/ibot's file of the backbone alone."""
    return {"state_dict": dict(state) | {"masked_embed": torch.zeros(1, 4)}}


def plstitch_training(state: dict[str, Tensor]) -> dict[str, Any]:
    """DINO's checkpoint with iBOT's mask token in both backbones."""
    return dino_training(state | {"masked_embed": torch.zeros(1, 4)})


def native_dinov3() -> nn.Module:
    """Meta's ViT-S/16: four registers, and a bias of zeros beside a mask that is 0 for the keys."""
    network = ViT(dim=384, depth=12, heads=6, patch=16, **{**V3, "image": 256}, registers=4, eps=1e-5)
    for block in network.each_block():
        layer = block.attn.qkv
        bias = torch.zeros_like(layer.bias)
        del layer.bias
        layer.register_buffer("bias", bias)
        layer.register_buffer("bias_mask", torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(384))
    return network


def small(**kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: ViT(**{"dim": 384, "depth": 12, "heads": 6, "patch": 16, "image": 224, **kwargs})


def base(**kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: ViT(**{"dim": 768, "depth": 12, "heads": 12, "patch": 16, "image": 224, **kwargs})


V2 = {"patch": 14, "image": 336, "layer_scale": True, "mask_token": True}
V3 = {"image": 336, "layer_scale": True, "rope": True, "mask_token": True}

CASES = [
    Case("surgenetxl_caformer_s18", CAFormer, flat),
    Case("surgenet_small_caformer_s18", CAFormer, dino_training),
    Case("surgenet_convnextv2_tiny", ConvNeXtV2, flat),
    Case("surgenet_pvt_v2_b2", PVTv2, flat),
    Case("surgenetdino_v1_vits", small(), flat, 224),
    Case("surgenetdino_v2_vits", small(**V2, registers=4), flat, 336),
    Case("surgenetdino_v2_vitb", base(**V2, registers=4), dinov2_teacher, 336),
    Case("surgenetdino_v3_vits", small(**V3), flat, 336),
    Case("lemonfm_convnext_large", ConvNeXtL, dino_training),
    Case("selfsupsurg_mocov2_resnet50", resnet, vissl),
    Case("endovit_segmentation_vitb16", base(), mae, 224),
    Case("peskavlp_resnet50", resnet, image_text),
    Case("dino_vits16", small(), dino_training, 224),
    Case("dino_vits8", small(patch=8, image=112), flat, 112),
    Case("dino_resnet50", resnet, dino_training),
    Case("dinov2_vits14", small(**{**V2, "image": 518}), flat, 518),
    Case("dinov2_vits14_reg4", small(**V2, registers=4, chunks=4), dinov2_trainer, 336),
    Case("dinov3_vits16", native_dinov3, flat),
    Case("ibot_vits16", small(), ibot_teacher, 224),
    Case("plstitch_vitb16", base(), plstitch_training, 224),
    Case("mocov3_vits16", small(heads=12), mocov3_training, 224),
    Case("mocov3_resnet50", resnet, mocov3_training),
    Case("imagenet_efficientnet_lite0", EfficientNetLite0, flat),
]
