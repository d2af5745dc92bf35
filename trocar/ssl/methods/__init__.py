"""The methods, one file each and both distillations in one: a `MethodConfig` that its file registers with `METHODS`.
There is no list to edit.
"""

from __future__ import annotations

from typing import Any

from trocar.ssl.engine.method import METHODS, MethodConfig


def default(name: str, **values: Any) -> MethodConfig:
    """The configuration of the method `name` with its published defaults, but for `values`.

    Raises ConfigError for an unknown name, with the nearest one.
    """
    return METHODS.get(name).model_validate({"name": name, **values})
