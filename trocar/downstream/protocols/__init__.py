"""Protocols by name: how frozen features become predictions. One file each; all arms go through the same
one.
"""

from __future__ import annotations

from trocar.downstream.protocols.base import Protocol
from trocar.downstream.protocols.knn import knn
from trocar.downstream.protocols.linear import linear
from trocar.errors import ConfigError, nearest

PROTOCOLS: dict[str, Protocol] = {"knn": knn, "linear": linear}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ConfigError with the nearest one."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol {name!r}{nearest(name, PROTOCOLS)}; protocols: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
