"""SurgVLP, HecVL and PeskaVLP: the ResNet-50 image towers of surgical vision-language models."""

from __future__ import annotations

from trocar.backbones.published.family import BACKBONES, Family, FileLayout, Published, Seen, Unused, same

FILES = "https://seafile.unistra.fr/f"

FAMILY = Family(
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

ENTRIES = tuple(
    Published(
        name=f"{name}_resnet50",
        family=FAMILY,
        architecture="resnet50",
        method="image-text contrast",
        seen=LECTURES,
        note=f"Its own code takes an archive from {FILES}/{share}/?dl=1 and unpacks the .pth.",
    )
    for name, share in (
        ("surgvlp", "93757ace1bfc47248e1e"),
        ("hecvl", "3b9b9207068a4b03bc2a"),
        ("peskavlp", "65a2b1bf113e428280d0"),
    )
)
BACKBONES.register_each(ENTRIES)
