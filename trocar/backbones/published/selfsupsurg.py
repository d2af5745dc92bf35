"""SelfSupSurg (Ramesh et al., "Dissecting self-supervised learning methods for surgical computer vision").

VISSL checkpoints: the trunk lies five dictionaries deep, under `_feature_blocks.`.
"""

from __future__ import annotations

from trocar.backbones.published.family import BACKBONES, Family, FileLayout, Published, Seen, same

TRUNK = ("classy_state_dict", "base_model", "model", "trunk")
FILES = "https://s3.unistra.fr/camma_public/github/selfsupsurg/models"

FAMILY = Family(
    name="selfsupsurg",
    title="SelfSupSurg",
    licence="CC-BY-NC-SA-4.0",
    homepage="https://github.com/CAMMA-public/SelfSupSurg",
    citation="Ramesh et al., Medical Image Analysis 2023, arXiv 2207.00449",
    source=same,
    layouts=(
        FileLayout(TRUNK, "_feature_blocks."),
        FileLayout(("model", "trunk"), "_feature_blocks."),
        FileLayout((), "_feature_blocks."),
    ),
)

METHODS = {"mocov2": "moco_v2", "simclr": "simclr", "swav": "swav", "dino": "dino"}

ENTRIES = tuple(
    Published(
        name=f"selfsupsurg_{method}_resnet50",
        family=FAMILY,
        architecture="resnet50",
        method=method,
        seen=(
            Seen("cholec80", "1-40", note="5 fps, the usual training videos"),
            Seen("imagenet1k", "train", labels=True, note="the weights it started from"),
        ),
        url=f"{FILES}/model_final_checkpoint_{file}_surg.torch",
    )
    for method, file in METHODS.items()
)
BACKBONES.register_each(ENTRIES)
