"""DINO and DINOv2 as people have them on disk: backbone files and full training checkpoints.

Caron et al., arXiv 2104.14294. Oquab et al., arXiv 2304.07193, without and with register tokens (Darcet et al., arXiv
2309.16588).
"""

from __future__ import annotations

from dataclasses import replace

from trocar.backbones.preprocess import Resampling
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
    swiglu,
    unchunked,
    with_registers,
)

DINO_LAYOUTS = (
    FileLayout(("teacher",), "backbone.", "teacher"),
    FileLayout(("student",), "backbone.", "student"),
    FileLayout(("teacher",), "", "teacher"),
    FileLayout(("state_dict",), "backbone."),
    FileLayout((), "backbone."),
    FileLayout(),
)
DINO_HEADS = (
    Unused(r"head\..*", "the projection head"),
    Unused(r"(fc|last_layer)\..*", "a classifier or the projection head's last layer"),
    # iBOT keeps it in the backbone, and its successors (PL-Stitch) as DINO's layout otherwise.
    Unused(r"masked_embed", "stands for masked patches, in iBOT's training only"),
)
IMAGENET = (Seen("imagenet1k", "train"),)
DINO_FILES = "https://dl.fbaipublicfiles.com/dino"


def _dino(name: str, title: str, positions: Resampling = "antialiased") -> Family:
    return Family(
        name=name,
        title=title,
        licence="Apache-2.0",
        homepage="https://github.com/facebookresearch/dino",
        citation="Caron et al., ICCV 2021, arXiv 2104.14294",
        source=same,
        layouts=DINO_LAYOUTS,
        unused=DINO_HEADS,
        positions=positions,
    )


VIT, RESNET = _dino("dino_vit", "DINO ViT", "dino"), _dino("dino_resnet", "DINO ResNet-50")


def _vit(letter: str, size: str, patch: int, file: str) -> Published:
    def fits(state: State) -> dict[str, object]:
        return image_size(state, patch)

    return Published(
        name=f"dino_vit{letter}{patch}",
        family=VIT,
        architecture=f"vit_{size}_patch{patch}_224",
        method="dino",
        seen=IMAGENET,
        url=f"{DINO_FILES}/dino_{file}{patch}_pretrain/dino_{file}{patch}_pretrain.pth",
        fits=fits,
    )


BACKBONES.register_each(
    (
        _vit("s", "small", 16, "deitsmall"),
        _vit("s", "small", 8, "deitsmall"),
        _vit("b", "base", 16, "vitbase"),
        _vit("b", "base", 8, "vitbase"),
        Published(
            name="dino_resnet50",
            family=RESNET,
            architecture="resnet50",
            method="dino",
            seen=IMAGENET,
            url=f"{DINO_FILES}/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        ),
    )
)


DINOV2_LAYOUTS = (
    FileLayout(("teacher",), "backbone.", "teacher"),
    FileLayout(("student",), "backbone.", "student"),
    # The trainer's own checkpoint: one flat dictionary of student and teacher.
    FileLayout(("model",), "teacher.backbone.", "teacher"),
    FileLayout(("model",), "student.backbone.", "student"),
    FileLayout((), "teacher.backbone.", "teacher"),
    FileLayout((), "backbone."),
    FileLayout(),
)
DINOV2_UNUSED = (
    Unused(r"mask_token", "stands for masked patches, in training only"),
    Unused(r"(dino_head|ibot_head|head)\..*", "projection heads"),
    Unused(r"(student|teacher)\..*", "the other network, and projection heads"),
    Unused(r"(dino_loss|ibot_patch_loss)\..*", "centres of the losses"),
)
LVD = (Seen("lvd142m"),)
DINOV2_FILES = "https://dl.fbaipublicfiles.com/dinov2"

DINOV2 = Family(
    name="dinov2",
    title="DINOv2",
    licence="Apache-2.0",
    homepage="https://github.com/facebookresearch/dinov2",
    citation="Oquab et al., TMLR 2024, arXiv 2304.07193",
    source=same,
    layouts=DINOV2_LAYOUTS,
    unused=DINOV2_UNUSED,
    canonical=unchunked,
    positions="dino",
)
REGISTERS = replace(
    DINOV2, name="dinov2_registers", title="DINOv2 with registers", source=with_registers, positions="antialiased"
)
GIANT = replace(DINOV2, name="dinov2_giant", title="DINOv2 ViT-g", source=swiglu)


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 14)


def _dinov2(letter: str, size: str, registers: bool) -> Published:
    file = f"dinov2_vit{letter}14"
    family = REGISTERS if registers else GIANT if size == "giant" else DINOV2
    return Published(
        name=f"dinov2_vit{letter}14" + ("_reg4" if registers else ""),
        family=family,
        architecture=f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2",
        method="dinov2",
        seen=LVD,
        url=f"{DINOV2_FILES}/{file}/{file}{'_reg4' if registers else ''}_pretrain.pth",
        fits=_fits,
    )


SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
BACKBONES.register_each(
    (
        *(_dinov2(letter, size, False) for letter, size in SIZES.items()),
        *(_dinov2(letter, size, True) for letter, size in SIZES.items() if size != "giant"),
    )
)
