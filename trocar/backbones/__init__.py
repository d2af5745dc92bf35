"""timm backbones: construction, loading, export. This room knows no training."""
