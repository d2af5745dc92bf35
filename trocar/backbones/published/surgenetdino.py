"""SurgeNetDINO (de Jong et al., MIDL 2026): ViTs by DINO v1, v2 and v3 on the frames of SurgeNetXL.

The published loader drops what does not fit: the four register tokens of v2, the qkv biases of v3, and leaves v3's
register tokens random, which it was trained without. Here v2 loads into the register variants of timm and v3 into
`trocar.backbones.architectures`; RoPE periods are computed, not learned, and differ from the file's only by rounding.
"""

from __future__ import annotations

from dataclasses import replace

from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.published.dino import LAYOUTS as DINO_LAYOUTS
from trocar.backbones.published.dinov2 import LAYOUTS as DINOV2_LAYOUTS
from trocar.backbones.published.dinov2 import UNUSED
from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    Published,
    Unused,
    dinov3,
    same,
    unchunked,
    with_registers,
)
from trocar.backbones.published.surgenet import SURGENET, YOUTUBE

FILES = "https://huggingface.co/rlpddejong/SurgeNetXL_DINOv1-v3/resolve/main"

V1 = Family(
    name="surgenetdino_v1",
    title="SurgeNetDINO v1",
    licence="CC-BY-NC-SA-4.0",
    homepage="https://github.com/rlpddejong/SurgeNetDINO",
    citation="de Jong et al., Towards Effective Surgical Representation Learning with DINO Models, MIDL 2026",
    source=same,
    layouts=DINO_LAYOUTS,
    unused=(Unused(r"head\..*", "the projection head"),),
    positions="dino",
)
V2 = replace(
    V1,
    name="surgenetdino_v2",
    title="SurgeNetDINO v2",
    source=with_registers,
    layouts=DINOV2_LAYOUTS,
    unused=UNUSED,
    canonical=unchunked,
    positions="antialiased",
)
V3 = replace(
    V2,
    name="surgenetdino_v3",
    title="SurgeNetDINO v3",
    source=dinov3,
    unused=(*UNUSED, Unused(r"rope_embed\.periods", "computed from the base 100, stored rounded to bfloat16")),
    canonical=lambda key: key,
)


def _entry(version: int, letter: str, size: str) -> Published:
    family = {1: V1, 2: V2, 3: V3}[version]
    patch, pixels = (14 if version == 2 else 16), (224 if version == 1 else 336)
    architecture = {
        1: f"vit_{size}_patch16_224",
        2: f"vit_{size}_patch14_reg4_dinov2",
        3: f"vit_{size}_patch16_dinov3_noreg",
    }[version]
    return Published(
        name=f"surgenetdino_v{version}_vit{letter}",
        family=family,
        architecture=architecture,
        arguments={} if version == 1 else {"img_size": pixels},
        method=f"dino v{version}",
        seen=SURGENET + YOUTUBE,
        preprocessing=Preprocessing(size=(pixels, pixels)),
        url=f"{FILES}/DINOv{version}_ViT{letter}{patch}_size{pixels}_SurgeNetXL.pth",
    )


ENTRIES = (
    _entry(1, "s", "small"),
    _entry(1, "b", "base"),
    *(
        _entry(version, letter, size)
        for version in (2, 3)
        for letter, size in (("s", "small"), ("b", "base"), ("l", "large"))
    ),
)
BACKBONES.register_each(ENTRIES)
