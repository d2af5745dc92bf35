"""MoCo v3 (Chen et al., arXiv 2104.02057): training checkpoints with `base_encoder` and `momentum_encoder`.

Its ViT-S has 12 heads, where timm's has 6: the keys and shapes fit either, the features don't.
"""

from __future__ import annotations

from dataclasses import replace

from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    FileLayout,
    Published,
    Seen,
    State,
    Unused,
    image_size,
    same,
)

VIT = Family(
    name="mocov3_vit",
    title="MoCo v3 ViT",
    licence="CC-BY-NC-4.0",
    homepage="https://github.com/facebookresearch/moco-v3",
    citation="Chen, Xie, He, ICCV 2021, arXiv 2104.02057",
    source=same,
    layouts=(
        # `teacher` is the moving average; the published evaluation takes the trained encoder.
        FileLayout(("state_dict",), "base_encoder.", "student"),
        FileLayout(("state_dict",), "momentum_encoder.", "teacher"),
        FileLayout((), "base_encoder.", "student"),
    ),
    unused=(
        Unused(r"(head|fc)\..*", "the projection head"),
        Unused(r"(base_encoder|momentum_encoder|predictor)\..*", "the other network, and the predictor"),
    ),
)
RESNET = replace(VIT, name="mocov3_resnet", title="MoCo v3 ResNet-50")
IMAGENET = (Seen("imagenet1k", "train"),)
FILES = "https://dl.fbaipublicfiles.com/moco-v3"


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 16)


ENTRIES = (
    Published(
        name="mocov3_vits16",
        family=VIT,
        architecture="vit_small_patch16_224",
        arguments={"num_heads": 12},
        method="mocov3",
        seen=IMAGENET,
        url=f"{FILES}/vit-s-300ep/vit-s-300ep.pth.tar",
        fits=_fits,
    ),
    Published(
        name="mocov3_vitb16",
        family=VIT,
        architecture="vit_base_patch16_224",
        method="mocov3",
        seen=IMAGENET,
        url=f"{FILES}/vit-b-300ep/vit-b-300ep.pth.tar",
        fits=_fits,
    ),
    Published(
        name="mocov3_resnet50",
        family=RESNET,
        architecture="resnet50",
        method="mocov3",
        seen=IMAGENET,
        url=f"{FILES}/r-50-1000ep/r-50-1000ep.pth.tar",
    ),
)
BACKBONES.register_each(ENTRIES)
