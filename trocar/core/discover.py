"""Packages whose files are what there is to choose from: a new method, head, protocol, task or data set is a file, and
there is no list to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def modules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Every module of a package, imported; `path` is its `__path__`."""
    return [importlib.import_module(f"{package}.{info.name}") for info in pkgutil.iter_modules(path)]


def named_classes(package: str, path: Iterable[str], base: type[Model]) -> dict[str, type[Model]]:
    """The subclasses of `base` that a package's own files define, by the default of their field `name`; those without
    a default are bases of others.
    """
    found: dict[str, type[Model]] = {}
    for module in modules(package, path):
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
            if own and not value.model_fields["name"].is_required():
                found[value.model_fields["name"].default] = value
    return found
