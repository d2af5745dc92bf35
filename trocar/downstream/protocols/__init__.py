"""Protocols: how labels are learned from a backbone. Each file registers its `Protocol` with `PROTOCOLS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trocar.core.config import validate
from trocar.downstream.protocols.base import PROTOCOLS, Protocol


def get_protocol(wanted: str | Mapping[str, Any]) -> Protocol:
    """A protocol from its name, or from `{name: ..., its settings}`. Raises ConfigError with the nearest name."""
    tree = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    name = str(tree.get("name", ""))
    return validate(PROTOCOLS.get(name), tree, f"protocol {name}")
