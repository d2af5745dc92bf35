"""Published weights that Trocar knows of and does not load: what they are, under which licence, and why not.

They are video networks: what goes in is a clip, cut into tubes of two frames, and no timm architecture has such a first
layer. `trocar fetch --list` has them, and their names are refused with these words instead of as unknown ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unloadable:
    """One published weight file that cannot become a timm backbone."""

    name: str
    what: str
    """Network, objective and data, in words."""
    licence: str
    """SPDX identifier of the weights' licence, or `unknown` where none is stated with them."""
    homepage: str
    citation: str
    url: str
    """The page or file where it is handed out."""
    why: str
    """Why it is not loaded, and what can be taken instead."""

    def __str__(self) -> str:
        return f"{self.what}; licence {self.licence}; {self.citation}; {self.url}. It is not loaded: {self.why}"


CLIPS = (
    "it takes clips, cut into tubes of two frames, where Trocar's backbones take single frames. What its own "
    "code predicts can be scored by `trocar metrics`."
)
SURGREC = (
    "CC-BY-NC-4.0",
    "https://github.com/Siiichenggg/SurgRec-open-source",
    "SurgRec, arXiv 2603.29966",
    "https://huggingface.co/SichengLu/SurgRec",
)
SURGREC_WHY = f"{CLIPS} The image model of its paper, DINOv3 on SurgeNetXL, is not published with it."
# The code of SurgMotion is under Apache-2.0; no licence was seen with the weights.
SURGMOTION = ("unknown", "https://github.com/CAIR-HKISI/SurgMotion", "SurgMotion, arXiv 2602.05638")
SURGMOTION_FILES = "https://huggingface.co/CAIR-HKISI/SurgMotion/blob/main"
MOTION = "V-JEPA 2 with motion-guided targets, 15 million frames of 50 sources"

UNLOADABLE = {
    one.name: one
    for one in (
        Unloadable("surgrec_mae_vitb", "ViT-B, video MAE, 10,535 surgical videos (1.1 GB)", *SURGREC, SURGREC_WHY),
        Unloadable("surgrec_jepa_vitl", "ViT-L, video JEPA, 10,535 surgical videos (4.8 GB)", *SURGREC, SURGREC_WHY),
        Unloadable("surgmotion_vitl", f"ViT-L, {MOTION}", *SURGMOTION, f"{SURGMOTION_FILES}/SurgMotion-vitl.pt", CLIPS),
        Unloadable(
            "surgmotion_vitg", f"ViT-g, {MOTION}", *SURGMOTION, f"{SURGMOTION_FILES}/SurgMotion-vitg-xformer.pt", CLIPS
        ),
    )
}
"""By name."""
