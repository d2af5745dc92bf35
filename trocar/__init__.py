"""Self-supervised pretraining of surgical vision backbones, and the measurement of what it was worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.backbones import load_backbone

__version__ = "0.1.0"
__all__ = ["__version__", "load_backbone"]


def __getattr__(name: str) -> Any:
    # torch and timm take seconds to import: only for those who ask.
    if name == "load_backbone":
        from trocar.backbones import load_backbone

        return load_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
