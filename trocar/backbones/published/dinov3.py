"""DINOv3 as Meta hands it out: flat files in the names of its own code (Simeoni et al., arXiv 2508.10104).

timm's weights of the same networks (`timm:vit_small_patch16_dinov3.lvd1689m`) are these tensors under other names.
There, queries and values have no bias: the files store one and a mask that takes it out for the keys, and in the
distilled networks the rest of it is zero. A file in which it is not is refused. The rotary periods are computed.
"""

from __future__ import annotations

from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    FileLayout,
    Published,
    Seen,
    Unused,
    dinov3_without_bias,
)

PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"

DINOV3 = Family(
    name="dinov3",
    title="DINOv3",
    licence="dinov3-license",
    homepage="https://github.com/facebookresearch/dinov3",
    citation="Simeoni et al., DINOv3, arXiv 2508.10104",
    source=dinov3_without_bias,
    layouts=(FileLayout(("teacher",), "backbone.", "teacher"), FileLayout((), "backbone."), FileLayout()),
    unused=(
        Unused(r"mask_token", "stands for masked patches, in training only"),
        Unused(r"rope_embed\.periods", "computed from the base 100"),
        Unused(r"local_cls_norm\..*", "the norm of local views, in training only"),
        Unused(r"(dino_head|ibot_head)\..*", "projection heads"),
    ),
)
HASHES = {"s": ("small", "08c60483"), "b": ("base", "73cec8be"), "l": ("large", "8aa4cbdd")}
"""Letter -> size in timm's name, and the digits that end the published file's name."""

BACKBONES.register_each(
    Published(
        name=f"dinov3_vit{letter}16",
        family=DINOV3,
        architecture=f"vit_{size}_patch16_dinov3",
        # Its own code gives the class token; timm's default for the architecture is the mean of the patches.
        arguments={"global_pool": "token"},
        method="dinov3",
        seen=(Seen("lvd1689m"),),
        preprocessing=Preprocessing(size=(256, 256)),
        note=f"Handed out as dinov3_vit{letter}16_pretrain_lvd1689m-{digits}.pth after a form, {PAGE}. "
        f"timm has the same weights as timm:vit_{size}_patch16_dinov3.lvd1689m.",
    )
    for letter, (size, digits) in HASHES.items()
)
