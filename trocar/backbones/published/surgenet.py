"""SurgeNet (Jaspers et al., "Scaling up self-supervised learning for improved surgical foundation models"), and
SurgeNetDINO (de Jong et al., MIDL 2026): ViTs by DINO v1, v2 and v3 on the frames of SurgeNetXL.

SurgeNet: flat teacher files (`*_checkpoint_epoch0050_teacher.pth`) in the key names of the original code of each
architecture, or full DINO checkpoints. CAFormer has ReLU in place of StarReLU: timm's own `caformer_s18` takes these
files with 48 keys missing and other outputs. The published loader's address for "SurgeNet-Public" is a full checkpoint,
of which it loads nothing; the address here is the teacher's.

SurgeNetDINO: the published loader drops what does not fit: the four register tokens of v2, the qkv biases of v3, and
leaves v3's register tokens random, which it was trained without. Here v2 loads into the register variants of timm and
v3 into `trocar.backbones.architectures`; RoPE periods are computed, not learned, and differ from the file's only by
rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.published.dino import DINO_LAYOUTS, DINOV2_LAYOUTS, DINOV2_UNUSED
from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    FileLayout,
    Published,
    Seen,
    Source,
    Unused,
    dinov3,
    renamed,
    same,
    unchunked,
    with_registers,
)

HOST = "https://huggingface.co/TimJaspersTue/SurgeNetModels/resolve/main"
LAYOUTS = (
    FileLayout(("teacher",), "backbone.", "teacher"),
    FileLayout(("student",), "backbone.", "student"),
    FileLayout(),
)
HEADS = (Unused(r"head\..*", "DINO's projection head or a classifier"),)


def _caformer(key: str) -> Source:
    key = renamed(
        key,
        (r"^stem\.norm", "downsample_layers.0.post_norm"),
        (r"^stem\.conv", "downsample_layers.0.conv"),
        (r"^stages\.(\d)\.downsample\.norm", r"downsample_layers.\1.pre_norm"),
        (r"^stages\.(\d)\.downsample\.conv", r"downsample_layers.\1.conv"),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"^head\.norm", "norm"),
    )
    # Pointwise layers are linear there, and 1 x 1 convolutions in timm's convolutional stages.
    pointwise = re.search(r"stages\.[01]\..*(?:mlp\.fc|pwconv)\d", key)
    return Source((key,), _as_convolution) if pointwise else Source((key,))


def _convnextv2(key: str) -> Source:
    published = renamed(
        key,
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"\.mlp\.grn\.weight", ".grn.gamma"),
        (r"\.mlp\.grn\.bias", ".grn.beta"),
        (r"^head\.norm", "norm"),
    )
    return Source((published,), _flat) if ".grn." in key else Source((published,))


def _pvtv2(key: str) -> Source:
    found = re.match(r"stages\.(\d)\.(?:(blocks)\.(\d+)|(downsample)|(norm))\.(.*)", key)
    if found is None:
        return Source((renamed(key, (r"^patch_embed\.", "patch_embed1.")),))
    stage = int(found[1]) + 1
    if found[2]:
        rest = renamed(found[6], (r"^mlp\.dwconv\.", "mlp.dwconv.dwconv."))
        return Source((f"block{stage}.{found[3]}.{rest}",))
    return Source((f"patch_embed{stage}.{found[6]}" if found[4] else f"norm{stage}.{found[6]}",))


def _flat(tensor: Tensor) -> Tensor:
    """[1, 1, 1, C] -> [C]."""
    return tensor[0, 0, 0]


def _as_convolution(tensor: Tensor) -> Tensor:
    """[out, in] -> [out, in, 1, 1]."""
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


CHOLEC = (
    Seen("cholec80", "76 of 80, which is not published", note="179,164 frames at 1 fps"),
    Seen("heichole", "30 videos"),
    Seen("hsdb_chole", "24 videos"),
)
RAMIE = (Seen("ramie_umcu", "28 videos", note="private"),)
RARP = (
    Seen("esad", "28 videos"),
    Seen("psi_ava", "8 videos"),
    Seen("rarp_avl", "8 videos", note="private"),
)
OTHERS = (
    Seen("dsad", "32 videos"),
    Seen("glenda", "400 videos"),
    Seen("lapgyn4", "500 videos"),
    Seen("multibypass140", "140 videos"),
    Seen("hsdb_gastric", "24 videos"),
    Seen("surgtoolloc2022"),
)
YOUTUBE = (Seen("surgenet_youtube", "3,253 videos", note="23 procedures"),)
SURGENET = CHOLEC + RAMIE + RARP + OTHERS
PUBLIC = tuple(seen for seen in SURGENET if seen.note != "private")
SMALL = tuple(Seen(seen.dataset, "a tenth of the frames", note=seen.note) for seen in SURGENET)


def _family(name: str, title: str, source: Callable[[str], Source]) -> Family:
    return Family(
        name=name,
        title=title,
        licence="CC-BY-NC-SA-4.0",
        homepage="https://github.com/TimJaspers0801/SurgeNet",
        citation="Jaspers, de Jong et al., Medical Image Analysis 108:103873, 2026, arXiv 2501.09436",
        source=source,
        layouts=LAYOUTS,
        unused=HEADS,
    )


CAFORMER = _family("surgenet_caformer", "SurgeNet CAFormer", _caformer)
CONVNEXTV2 = _family("surgenet_convnextv2", "SurgeNet ConvNeXtV2", _convnextv2)
PVTV2 = _family("surgenet_pvtv2", "SurgeNet PVTv2", _pvtv2)


def _entry(name: str, family: Family, architecture: str, file: str, seen: tuple[Seen, ...]) -> Published:
    return Published(
        name=f"{name}_{architecture.removesuffix('_relu')}",
        family=family,
        architecture=architecture,
        method="dino",
        seen=seen,
        url=f"{HOST}/{file}_checkpoint_epoch0050_teacher.pth",
    )


BACKBONES.register_each(
    (
        _entry("surgenetxl", CAFORMER, "caformer_s18_relu", "SurgeNetXL", SURGENET + YOUTUBE),
        _entry("surgenet", CAFORMER, "caformer_s18_relu", "SurgeNet", SURGENET),
        _entry("surgenet_small", CAFORMER, "caformer_s18_relu", "SurgeNetSmall", SMALL),
        _entry("surgenet_public", CAFORMER, "caformer_s18_relu", "Public", PUBLIC),
        _entry("surgenet_cholec", CAFORMER, "caformer_s18_relu", "CHOLEC", CHOLEC),
        _entry("surgenet_ramie", CAFORMER, "caformer_s18_relu", "RAMIE", RAMIE),
        _entry("surgenet_rarp", CAFORMER, "caformer_s18_relu", "RARP", RARP),
        _entry("surgenet", CONVNEXTV2, "convnextv2_tiny", "SurgeNet_ConvNextv2", SURGENET),
        _entry("surgenet", PVTV2, "pvt_v2_b2", "SurgeNet_PVTv2", SURGENET),
    )
)


DINO_HOST = "https://huggingface.co/rlpddejong/SurgeNetXL_DINOv1-v3/resolve/main"

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
    unused=DINOV2_UNUSED,
    canonical=unchunked,
    positions="antialiased",
)
V3 = replace(
    V2,
    name="surgenetdino_v3",
    title="SurgeNetDINO v3",
    source=dinov3,
    unused=(*DINOV2_UNUSED, Unused(r"rope_embed\.periods", "computed from the base 100, stored rounded to bfloat16")),
    canonical=lambda key: key,
)


def _dino(version: int, letter: str, size: str) -> Published:
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
        url=f"{DINO_HOST}/DINOv{version}_ViT{letter}{patch}_size{pixels}_SurgeNetXL.pth",
    )


BACKBONES.register_each(
    (
        _dino(1, "s", "small"),
        _dino(1, "b", "base"),
        *(
            _dino(version, letter, size)
            for version in (2, 3)
            for letter, size in (("s", "small"), ("b", "base"), ("l", "large"))
        ),
    )
)
