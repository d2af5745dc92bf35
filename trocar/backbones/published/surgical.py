"""Surgical weights of which there are one to four files.

EndoViT (Batic et al., IJCARS 2024): MAE on Endo700k, three files that each left one test set out, and the one of its
page on the Hugging Face hub, of which nothing says what it left out.

LemonFM (Che et al., "LEMON", arXiv 2503.19740): a torchvision ConvNeXt-L in a DINO training checkpoint. The published
loader starts from ImageNet weights and loads with `strict=False`, so a bad file passes for LemonFM.

SelfSupSurg (Ramesh et al., "Dissecting self-supervised learning methods for surgical computer vision"): VISSL
checkpoints, whose trunk lies five dictionaries deep, under `_feature_blocks.`.

SurgVLP, HecVL and PeskaVLP: the ResNet-50 image towers of surgical vision-language models.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.published.family import (
    BACKBONES,
    Family,
    FileLayout,
    Published,
    Seen,
    Source,
    State,
    Unused,
    image_size,
    same,
)

ENDOVIT = Family(
    name="endovit",
    title="EndoViT",
    licence="unknown",
    homepage="https://github.com/DominikBatic/EndoViT",
    citation="Batic et al., IJCARS 2024, arXiv 2303.17636",
    source=same,
    layouts=(FileLayout(("model",)), FileLayout()),
    unused=(
        Unused(r"decoder_.*", "MAE's decoder"),
        Unused(r"mask_token", "stands for masked patches, in training only"),
        Unused(r"head\..*", "a classifier"),
    ),
)
# Mean and standard deviation of Cholec80, which its pretraining and its tasks normalise with.
CHOLEC80_INPUT = Preprocessing(mean=(0.3464, 0.2280, 0.2228), std=(0.2520, 0.2128, 0.2093))
ENDO700K = tuple(
    Seen(name) for name in ("heico", "psi_ava", "esad", "lapgyn4", "hsdb", "dsad", "glenda", "surgical_actions160")
)
START = Seen("imagenet1k", "train", note="the MAE weights it started from")
# By datasets/Cholec80/prepare_cholec80.py: without the four validation and test videos of CholecSeg8k, without the nine
# videos of CholecT45's fold 5, and the forty training videos. The README has it that all three are without validation
# videos, but those of CholecT45 (the last five of fold 4) are in the second.
CHOLEC80 = {
    "segmentation": "1-11,13-16,18-26,28-51,53-80",
    "triplets": "2-3,5-12,14-34,36-42,44-55,57-61,63-73,75-77,79-80",
    "phase": "1-40",
}


# The hub's page states a licence; beside the three files there is none.
ENDOVIT_HUB = replace(ENDOVIT, licence="Apache-2.0")
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id"
ENDOVIT_FILES = {
    "segmentation": "1NJ-4ZL40kHA_WZ1NylahaS84FcvnigjF",
    "triplets": "1NReHXlMiBkVJiZcuJAGx6sGWh7pNgg_i",
    "phase": "1NK8aMb9SaApCn_vLigyDSn3aTI55QVT1",
}


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 16)


BACKBONES.register_each(
    Published(
        name=f"endovit_{task}_vitb16",
        family=ENDOVIT,
        architecture="vit_base_patch16_224",
        method="mae",
        seen=(Seen("cholec80", which), *ENDO700K, START),
        preprocessing=CHOLEC80_INPUT,
        fits=_fits,
        url=f"{DRIVE}={ENDOVIT_FILES[task]}",
        note="Google Drive may ask for a browser instead: the links are on the homepage.",
    )
    for task, which in CHOLEC80.items()
)

BACKBONES.register_each(
    (
        Published(
            name="endovit_vitb16",
            family=ENDOVIT_HUB,
            architecture="vit_base_patch16_224",
            method="mae",
            seen=(Seen("cholec80", "videos that are not stated"), *ENDO700K, START),
            preprocessing=CHOLEC80_INPUT,
            url="https://huggingface.co/egeozsoy/EndoViT/resolve/main/pytorch_model.bin",
            fits=_fits,
            note="1.34 GB; links to it and to the three others are on the homepage.",
        ),
    )
)


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


LEMONFM = Family(
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

BACKBONES.register_each(
    (
        Published(
            name="lemonfm_convnext_large",
            family=LEMONFM,
            architecture="convnext_large",
            method="augmented distillation",
            seen=(Seen("lemon", note="4,194 videos from YouTube; their ids are in the data set's labels.json"),),
            url="https://huggingface.co/visurg/LemonFM/resolve/main/LemonFM.pth",
            note="The frames it was trained on were stored with red and blue exchanged and read back that way: RGB.",
        ),
    )
)


TRUNK = ("classy_state_dict", "base_model", "model", "trunk")
SELFSUPSURG_FILES = "https://s3.unistra.fr/camma_public/github/selfsupsurg/models"

SELFSUPSURG = Family(
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

BACKBONES.register_each(
    Published(
        name=f"selfsupsurg_{method}_resnet50",
        family=SELFSUPSURG,
        architecture="resnet50",
        method=method,
        seen=(
            Seen("cholec80", "1-40", note="5 fps, the usual training videos"),
            Seen("imagenet1k", "train", labels=True, note="the weights it started from"),
        ),
        url=f"{SELFSUPSURG_FILES}/model_final_checkpoint_{file}_surg.torch",
    )
    for method, file in METHODS.items()
)


SURGVLP_FILES = "https://seafile.unistra.fr/f"

SURGVLP = Family(
    name="surgvlp",
    title="SurgVLP, HecVL, PeskaVLP",
    licence="CC-BY-NC-SA-4.0",
    homepage="https://github.com/CAMMA-public/SurgVLP",
    citation="Yuan et al., SurgVLP, arXiv 2307.15220; HecVL, arXiv 2405.10075; PeskaVLP, arXiv 2410.00263",
    source=same,
    layouts=(FileLayout((), "backbone_img.model."), FileLayout(("state_dict",), "backbone_img.model.")),
    unused=(
        Unused(r"backbone_img\.global_embedder\..*", "projects into the space shared with text"),
        Unused(r"(backbone_text|neck|head|logit_scale).*", "the text tower and heads"),
    ),
)
LECTURES = (
    Seen("svl_lectures", note="surgical video lectures with transcripts; which videos is not published"),
    Seen("imagenet1k", "train", labels=True, note="the weights the tower started from"),
)

BACKBONES.register_each(
    Published(
        name=f"{name}_resnet50",
        family=SURGVLP,
        architecture="resnet50",
        method="image-text contrast",
        seen=LECTURES,
        url=f"{SURGVLP_FILES}/{share}/?dl=1",
        note="Its own code unpacks what it downloads where that is an archive; so does `trocar fetch`.",
    )
    for name, share in (
        ("surgvlp", "93757ace1bfc47248e1e"),
        ("hecvl", "3b9b9207068a4b03bc2a"),
        ("peskavlp", "65a2b1bf113e428280d0"),
    )
)
