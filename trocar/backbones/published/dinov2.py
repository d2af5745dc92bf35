"""DINOv2 (Oquab et al., arXiv 2304.07193), without and with register tokens (Darcet et al., arXiv 2309.16588)."""

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
    swiglu,
    unchunked,
    with_registers,
)

LAYOUTS = (
    FileLayout(("teacher",), "backbone.", "teacher"),
    FileLayout(("student",), "backbone.", "student"),
    # The trainer's own checkpoint: one flat dictionary of student and teacher.
    FileLayout(("model",), "teacher.backbone.", "teacher"),
    FileLayout(("model",), "student.backbone.", "student"),
    FileLayout((), "teacher.backbone.", "teacher"),
    FileLayout((), "backbone."),
    FileLayout(),
)
UNUSED = (
    Unused(r"mask_token", "stands for masked patches, in training only"),
    Unused(r"(dino_head|ibot_head|head)\..*", "projection heads"),
    Unused(r"(student|teacher)\..*", "the other network, and projection heads"),
    Unused(r"(dino_loss|ibot_patch_loss)\..*", "centres of the losses"),
)
LVD = (Seen("lvd142m"),)
FILES = "https://dl.fbaipublicfiles.com/dinov2"

PLAIN = Family(
    name="dinov2",
    title="DINOv2",
    licence="Apache-2.0",
    homepage="https://github.com/facebookresearch/dinov2",
    citation="Oquab et al., TMLR 2024, arXiv 2304.07193",
    source=same,
    layouts=LAYOUTS,
    unused=UNUSED,
    canonical=unchunked,
    positions="dino",
)
REGISTERS = replace(
    PLAIN, name="dinov2_registers", title="DINOv2 with registers", source=with_registers, positions="antialiased"
)
GIANT = replace(PLAIN, name="dinov2_giant", title="DINOv2 ViT-g", source=swiglu)


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 14)


def _entry(letter: str, size: str, registers: bool) -> Published:
    file = f"dinov2_vit{letter}14"
    family = REGISTERS if registers else GIANT if size == "giant" else PLAIN
    return Published(
        name=f"dinov2_vit{letter}14" + ("_reg4" if registers else ""),
        family=family,
        architecture=f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2",
        method="dinov2",
        seen=LVD,
        url=f"{FILES}/{file}/{file}{'_reg4' if registers else ''}_pretrain.pth",
        fits=_fits,
    )


SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
ENTRIES = (
    *(_entry(letter, size, False) for letter, size in SIZES.items()),
    *(_entry(letter, size, True) for letter, size in SIZES.items() if size != "giant"),
)
BACKBONES.register_each(ENTRIES)
