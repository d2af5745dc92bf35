"""The heads, one file each. A file here with a `HeadConfig` that has a `name` is one: there is no list to
edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from trocar.core.config import validate
from trocar.core.discover import named_classes
from trocar.downstream.temporal.head import HeadConfig
from trocar.errors import ConfigError, nearest


def configs() -> dict[str, type[HeadConfig]]:
    """The configuration class of each head, by the name that a file asks for it with."""
    return named_classes(__name__, __path__, HeadConfig)  # type: ignore[type-abstract]


if TYPE_CHECKING:
    AnyHead = HeadConfig
else:
    AnyHead = Annotated[Union[tuple(configs().values())], Field(discriminator="name")]  # noqa: UP007


def get_head(name: str, **values: Any) -> HeadConfig:
    """The settings of the head `name`: its defaults, but for `values`.

    Raises ConfigError for an unknown head, with the nearest one, and for a setting the head does not have.
    """
    known = configs()
    if name not in known:
        raise ConfigError(f"no temporal head {name!r}{nearest(name, known)}; heads: {', '.join(sorted(known))}")
    return validate(known[name], {"name": name, **values}, f"temporal head {name!r}")
