"""Load published weights from the store or from a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from trocar.backbones.origin import Origin, set_origin
from trocar.backbones.published.base import Published
from trocar.backbones.published.build import build
from trocar.backbones.published.convert import convert
from trocar.backbones.weights import weight_store
from trocar.backbones.weights.checkpoint_file import read_checkpoint
from trocar.backbones.weights.fingerprint import fingerprint


def load_fetched(entry: Published, part: str = "", **kwargs: Any) -> nn.Module:
    """From the store, its sha256 compared with the recorded one; `kwargs` are timm's."""
    path, digest = weight_store.fetched_file(entry)
    return _load(entry, path, digest, part, kwargs)


def load_from_file(entry: Published, path: Path, part: str = "", **kwargs: Any) -> nn.Module:
    """From the user's own copy, compared with the published sha256 where that is known."""
    return _load(entry, path, weight_store.verified(path, entry), part, kwargs)


def _load(entry: Published, path: Path, digest: str, part: str, kwargs: dict[str, Any]) -> nn.Module:
    converted = convert(entry, read_checkpoint(path), str(path), part)
    model = build(entry, converted, **kwargs)
    plain = not kwargs.get("features_only") and not kwargs.get("num_classes")
    set_origin(model, Origin.of(entry, digest, str(fingerprint(model)) if plain else None))
    return model
