"""EndoViT (Batic et al., IJCARS 2024): MAE on Endo700k, three files that each left one test set out."""

from __future__ import annotations

from trocar.backbones.preprocess import Preprocessing
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
)

FAMILY = Family(
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
INPUT = Preprocessing(mean=(0.3464, 0.2280, 0.2228), std=(0.2520, 0.2128, 0.2093))
OTHERS = tuple(
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


def _fits(state: State) -> dict[str, object]:
    return image_size(state, 16)


ENTRIES = tuple(
    Published(
        name=f"endovit_{task}_vitb16",
        family=FAMILY,
        architecture="vit_base_patch16_224",
        method="mae",
        seen=(Seen("cholec80", which), *OTHERS, START),
        preprocessing=INPUT,
        fits=_fits,
        note="Offered on a page that needs a browser: see the homepage.",
    )
    for task, which in CHOLEC80.items()
)
BACKBONES.register_each(ENTRIES)
