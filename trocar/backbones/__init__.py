"""timm backbones: construction, published surgical weights, loading, export. This room knows no training.

Importing it makes the published names known to timm.
"""

from trocar.backbones.load import load_backbone
from trocar.backbones.published.family import BACKBONES

BACKBONES.import_own()

__all__ = ["load_backbone"]
