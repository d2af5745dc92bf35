"""LemonFM (Che et al., "LEMON", arXiv 2503.19740): a torchvision ConvNeXt-L in a DINO training checkpoint.

The published loader starts from ImageNet weights and loads with `strict=False`, so a bad file passes for LemonFM.
"""

from __future__ import annotations

import re

from torch import Tensor

from trocar.backbones.published.family import BACKBONES, Family, FileLayout, Published, Seen, Source, Unused

BLOCK = {"conv_dw": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}


def _torchvision(key: str) -> Source:
    """timm ConvNeXt -> torchvision ConvNeXt: features 0 is the stem, odd ones are stages, even ones downsample."""
    if found := re.match(r"stages\.(\d)\.blocks\.(\d+)\.(.*)", key):
        stage, block, rest = 2 * int(found[1]) + 1, found[2], found[3]
        if rest == "gamma":
            return Source((f"features.{stage}.{block}.layer_scale",), _flat)
        layer, _, kind = rest.rpartition(".")
        return Source((f"features.{stage}.{block}.{BLOCK[layer]}.{kind}",))
    if found := re.match(r"stages\.(\d)\.downsample\.(.*)", key):
        return Source((f"features.{2 * int(found[1])}.{found[2]}",))
    if key.startswith("stem."):
        return Source((key.replace("stem.", "features.0."),))
    return Source((key.replace("head.norm.", "classifier.0."),))


def _flat(tensor: Tensor) -> Tensor:
    """[C, 1, 1] -> [C]."""
    return tensor[:, 0, 0]


FAMILY = Family(
    name="lemonfm",
    title="LemonFM",
    licence="unknown",
    homepage="https://github.com/visurg-ai/LEMON",
    citation="Che et al., CVPR 2026, arXiv 2503.19740",
    source=_torchvision,
    layouts=(
        FileLayout(("teacher",), "backbone.", "teacher"),
        FileLayout(("student",), "backbone.", "student"),
        FileLayout((), "backbone."),
        FileLayout(),
    ),
    unused=(Unused(r"head\..*", "DINO's projection head"),),
)

ENTRIES = (
    Published(
        name="lemonfm_convnext_large",
        family=FAMILY,
        architecture="convnext_large",
        method="augmented distillation",
        seen=(Seen("lemon", note="4,194 videos from YouTube; their ids are in the data set's labels.json"),),
        url="https://huggingface.co/visurg/LemonFM/resolve/main/LemonFM.pth",
        note="The frames it was trained on were stored with red and blue exchanged and read back that way: RGB.",
    ),
)
BACKBONES.register_each(ENTRIES)
