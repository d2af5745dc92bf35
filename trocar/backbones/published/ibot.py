"""iBOT (Zhou et al., arXiv 2111.07832), and PL-Stitch, which went on from it on surgical video (arXiv 2511.17805).

The layout is DINO's, and the backbone keeps `masked_embed`, which stands for masked patches. iBOT's small files hold
the teacher under `state_dict`, the full ones student and teacher with their heads.
"""

from __future__ import annotations

from dataclasses import replace

from trocar.backbones.published.dino import DINO_HEADS, DINO_LAYOUTS, IMAGENET
from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    FileLayout,
    Published,
    Seen,
    State,
    image_size,
    same,
)

FILES = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"

IBOT = Family(
    name="ibot",
    title="iBOT",
    licence="Apache-2.0",
    homepage="https://github.com/bytedance/ibot",
    citation="Zhou et al., iBOT, ICLR 2022, arXiv 2111.07832",
    source=same,
    layouts=(*DINO_LAYOUTS, FileLayout(("state_dict",))),
    unused=DINO_HEADS,
    positions="dino",
)
PL_STITCH = replace(
    IBOT,
    name="plstitch",
    title="PL-Stitch",
    # Its code is MIT; what holds for the weights is not stated with them.
    licence="unknown",
    homepage="https://github.com/visurg-ai/PL-Stitch",
    citation="Che et al., A Stitch in Time, CVPR 2026, arXiv 2511.17805",
)


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 16)


BACKBONES.register_each(
    Published(
        name=f"ibot_vit{letter}16",
        family=IBOT,
        architecture=f"vit_{size}_patch16_224",
        method="ibot",
        seen=IMAGENET,
        url=f"{FILES}/vit{letter}_16/checkpoint_teacher.pth",
        fits=_fits,
    )
    for letter, size in (("s", "small"), ("b", "base"), ("l", "large"))
)

BACKBONES.register_each(
    (
        Published(
            name="plstitch_vitb16",
            family=PL_STITCH,
            architecture="vit_base_patch16_224",
            method="ibot and order of frames",
            seen=(
                Seen("lemon", note="4,194 videos from YouTube; their ids are in the data set's labels.json"),
                Seen("imagenet1k", "train", note="the iBOT weights it started from"),
            ),
            url="https://huggingface.co/visurg/PL-Stitch/resolve/main/pl_lemon.pth",
            fits=_fits,
            note="Its own code decodes frames with blue first and takes them for RGB.",
        ),
    )
)
