"""A family of backbones: weights that one hospital trained, in the layout of its own checkpoints.

`trocar evaluate --backbone north_resnet18@weights.pth` loads them strictly: every key is used, or listed as unused.
"""

from __future__ import annotations

from trocar import register_backbone
from trocar.backbones.published.family import Family, FileLayout, Published, Seen, Unused, same

FAMILY = Family(
    name="north",
    title="North Hospital",
    licence="unknown",
    homepage="https://north-hospital.example",
    citation="internal",
    source=same,
    layouts=(FileLayout(("model",), "encoder."),),
    unused=(Unused(r"projector\..*", "the projection head of the pretraining"),),
)


def _entry(name: str, architecture: str) -> Published:
    # What the weights have seen stands in every leak verdict.
    return Published(name, FAMILY, architecture, method="simclr", seen=(Seen("north_hospital_videos"),))


RESNET18 = register_backbone(_entry("north_resnet18", "resnet18"))
TINY = register_backbone(_entry("north_tiny", "test_resnet"))  # for trying things out
