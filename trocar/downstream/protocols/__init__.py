"""Protocols by name: how labels are learned from a backbone. A file here with a `Protocol` that has a `name` is one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from trocar.core.discover import named_classes
from trocar.downstream.protocols.base import Protocol
from trocar.errors import ConfigError, nearest


@cache
def protocols() -> dict[str, type[Protocol]]:
    """The class of each protocol by the name a configuration asks for it with."""
    found = named_classes(__name__, __path__, Protocol)  # type: ignore[type-abstract]
    return {name: protocol for name, protocol in found.items() if not protocol.constant}


def get_protocol(wanted: str | Mapping[str, Any]) -> Protocol:
    """A protocol from its name, or from `{name: ..., its settings}`. Raises ConfigError with the nearest name."""
    from trocar.core.config import validate

    tree = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    name, known = str(tree.get("name", "")), protocols()
    if name not in known:
        raise ConfigError(f"no protocol {name!r}{nearest(name, known)}; protocols: {', '.join(known)}")
    return validate(known[name], tree, f"protocol {name}")
