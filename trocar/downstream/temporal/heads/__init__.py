"""The temporal heads, one file each: a `HeadConfig` that its file registers with `HEADS`. There is no list to edit."""

from __future__ import annotations

from typing import Any

from trocar.core.config import validate
from trocar.downstream.temporal.head import HEADS, HeadConfig


def get_head(name: str, **values: Any) -> HeadConfig:
    """The settings of the head `name`: its defaults, but for `values`.

    Raises ConfigError for an unknown head, with the nearest one, and for a setting the head does not have.
    """
    return validate(HEADS.get(name), {"name": name, **values}, f"temporal head {name!r}")
