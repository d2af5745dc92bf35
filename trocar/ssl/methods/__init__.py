"""The methods, one file each. A file here with a `MethodConfig` that has a `name` is one: there is no list to edit."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from trocar.ssl.method import MethodConfig


def configs() -> dict[str, type[MethodConfig]]:
    """The configuration class of each method, by the name that a file asks for it with."""
    found: dict[str, type[MethodConfig]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, MethodConfig) and value.__module__ == module.__name__:
                found[value.model_fields["name"].default] = value
    return found


if TYPE_CHECKING:
    AnyMethod = MethodConfig
else:
    AnyMethod = Annotated[Union[tuple(configs().values())], Field(discriminator="name")]  # noqa: UP007


def default(name: str, **values: Any) -> MethodConfig:
    """The configuration of the method `name` with its published defaults, but for `values`."""
    return configs()[name].model_validate({"name": name, **values})
