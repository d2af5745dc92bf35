"""The methods, one file each. A file here with a `MethodConfig` that has a `name` is one: there is no list to edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from trocar.core.discover import named_classes
from trocar.ssl.engine.method import MethodConfig


def configs() -> dict[str, type[MethodConfig]]:
    """The configuration class of each method, by the name that a file asks for it with."""
    return named_classes(__name__, __path__, MethodConfig)  # type: ignore[type-abstract]


if TYPE_CHECKING:
    AnyMethod = MethodConfig
else:
    AnyMethod = Annotated[Union[tuple(configs().values())], Field(discriminator="name")]  # noqa: UP007


def default(name: str, **values: Any) -> MethodConfig:
    """The configuration of the method `name` with its published defaults, but for `values`."""
    return configs()[name].model_validate({"name": name, **values})
