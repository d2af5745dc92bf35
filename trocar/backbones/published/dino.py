"""DINO (Caron et al., arXiv 2104.14294) as people have it on disk: backbone files and full training checkpoints."""

from __future__ import annotations

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
)

LAYOUTS = (
    FileLayout(("teacher",), "backbone.", "teacher"),
    FileLayout(("student",), "backbone.", "student"),
    FileLayout(("teacher",), "", "teacher"),
    FileLayout(("state_dict",), "backbone."),
    FileLayout((), "backbone."),
    FileLayout(),
)
HEADS = (
    Unused(r"head\..*", "the projection head"),
    Unused(r"(fc|last_layer)\..*", "a classifier or the projection head's last layer"),
    # iBOT keeps it in the backbone, and its successors (PL-Stitch) as DINO's layout otherwise.
    Unused(r"masked_embed", "stands for masked patches, in iBOT's training only"),
)
IMAGENET = (Seen("imagenet1k", "train"),)
FILES = "https://dl.fbaipublicfiles.com/dino"


def _family(name: str, title: str, positions: Resampling = "antialiased") -> Family:
    return Family(
        name=name,
        title=title,
        licence="Apache-2.0",
        homepage="https://github.com/facebookresearch/dino",
        citation="Caron et al., ICCV 2021, arXiv 2104.14294",
        source=same,
        layouts=LAYOUTS,
        unused=HEADS,
        positions=positions,
    )


VIT, RESNET = _family("dino_vit", "DINO ViT", "dino"), _family("dino_resnet", "DINO ResNet-50")


def _vit(letter: str, size: str, patch: int, file: str) -> Published:
    def fits(state: State) -> dict[str, object]:
        return image_size(state, patch)

    return Published(
        name=f"dino_vit{letter}{patch}",
        family=VIT,
        architecture=f"vit_{size}_patch{patch}_224",
        method="dino",
        seen=IMAGENET,
        url=f"{FILES}/dino_{file}{patch}_pretrain/dino_{file}{patch}_pretrain.pth",
        fits=fits,
    )


ENTRIES = (
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
        url=f"{FILES}/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
    ),
)
BACKBONES.register_each(ENTRIES)
