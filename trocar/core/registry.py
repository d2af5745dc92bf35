"""Things that a configuration, a flag or a caller chooses by name: methods, heads, tasks, data sets and so on.

Each kind has one `Registry`. Three ways lead into it: a module of Trocar's own package for the kind, which registers
what it defines when it is imported; an entry point of the group `trocar.<kind>` of an installed distribution; and a
call of `register` by anybody else, such as a package that a configuration lists under `plugins`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import FunctionType, ModuleType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from trocar.core import plugins
from trocar.errors import ConfigError, nearest

NAME_UNKNOWN, NAME_MISSING = "registered_name_unknown", "registered_name_missing"
"""Types of validation errors of `ByName` and `NameOf`; their context has the `name`, its `key` and the `allowed`."""

T = TypeVar("T")
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    thing: T
    module: str
    """Where it was defined."""

    @property
    def place(self) -> str:
        """The same with its name there, for errors."""
        qualname = getattr(self.thing, "__qualname__", None)
        return f"{self.module}.{qualname}" if qualname else self.module


class Registry(Generic[T]):
    """All things of one `kind` by name.

    `noun` and `plural` are what errors call them. `accepts` tells whether an object is one, and `expected` says in
    words what it should be. The modules of `package` are imported when the registry is first asked.
    """

    def __init__(
        self,
        kind: str,
        noun: str,
        *,
        plural: str = "",
        package: str = "",
        accepts: Callable[[Any], bool] = lambda thing: True,
        expected: str = "",
    ) -> None:
        self.kind, self.noun, self.plural = kind, noun, plural or kind
        self._package, self._accepts, self._expected = package, accepts, expected
        self._entries: dict[str, _Entry[T]] = {}
        self._watchers: list[Callable[[T], None]] = []
        self._pending: dict[str, list[metadata.EntryPoint]] | None = None
        self._own_imported = False
        self._lock = threading.RLock()

    def register(self, thing: Thing, name: str | None = None) -> Thing:
        """Add `thing` and return it; also a decorator. Without `name` it is what the thing calls itself: the default of
        a model's field `name`, else its attribute `name`.

        Raises ConfigError where another thing has the name, or `thing` is not of this kind.
        """
        self._add(thing, name, _defined_in(thing, sys._getframe(1).f_globals["__name__"]))
        return thing

    def register_each(self, things: Iterable[Any]) -> None:
        """`register` for several things that have names of their own."""
        for thing in things:
            self._add(thing, None, _defined_in(thing, sys._getframe(1).f_globals["__name__"]))

    def on_register(self, watcher: Callable[[T], None]) -> None:
        """Call `watcher` with everything that is registered, before now and later."""
        self._watchers.append(watcher)
        for entry in list(self._entries.values()):
            watcher(entry.thing)

    def unregister(self, name: str) -> None:
        """Take a thing out again, as a test or a notebook may. Raises KeyError where there is none."""
        del self._entries[name]

    def get(self, name: str) -> T:
        """The thing of that name.

        Raises ConfigError, with the nearest name, where there is none, where two have it, and where the plugin that has
        it cannot be imported.
        """
        return self._entry(name).thing

    def module_of(self, name: str) -> str:
        """The module that defines the thing of that name. Raises ConfigError as `get`."""
        return self._entry(name).module

    def items(self) -> list[tuple[str, T]]:
        """Everything with its name, in the order of the names.

        Raises ConfigError where an entry point cannot be imported.
        """
        self._import_all()
        return [(name, self._entries[name].thing) for name in sorted(self._entries)]

    def values(self) -> list[T]:
        """Everything, in the order of the names. Raises ConfigError as `items`."""
        return [thing for _, thing in self.items()]

    def names(self) -> list[str]:
        """All names, sorted. Raises ConfigError as `items`."""
        return [name for name, _ in self.items()]

    def __contains__(self, name: object) -> bool:
        """Whether something has that name, as far as our own modules and the entry points of that very name can tell: a
        plugin that nobody asked for is not imported.
        """
        if not isinstance(name, str):
            return False
        self.import_own()
        self._import_points(name)
        return name in self._entries

    def unknown(self, name: str) -> ConfigError:
        """What to raise for a name that nothing has."""
        known = self.names()
        return ConfigError(f"no {self.noun} {name!r}{nearest(name, known)}; {self.plural}: {', '.join(known)}")

    def find(self, name: object) -> T | None:
        """The thing of that name, None where there is none. Raises ConfigError as `get`."""
        if name not in self:
            self._import_all()  # a module may register things beside the one that its entry point names
        entry = self._entries.get(name) if isinstance(name, str) else None
        return entry.thing if entry is not None else None

    def _entry(self, name: str) -> _Entry[T]:
        if self.find(name) is None:
            raise self.unknown(name)
        return self._entries[name]

    def _add(self, thing: Any, name: str | None, module: str) -> None:
        if not self._accepts(thing):
            raise ConfigError(f"{module}: {thing!r} cannot be registered as a {self.noun}: expected {self._expected}")
        name = name if name is not None else _own_name(thing)
        if not name:
            raise ConfigError(f"{module}: {thing!r} cannot be registered as a {self.noun}: it has no `name`")
        entry, known = _Entry[T](thing, module), self._entries.get(name)
        if known is not None and known.thing is not thing and not _defined_again(known, entry):
            raise ConfigError(
                f"two {self.plural} are called {name!r}: {known.place} and {entry.place}; rename one, or remove its "
                "plugin"
            )
        if known is None or known.thing is not thing:
            for watcher in self._watchers:
                watcher(thing)
            self._entries[name] = entry
            plugins.note_plugin(module)

    def _import_all(self) -> None:
        self.import_own()
        for name in list(self._points()):
            self._import_points(name)

    def import_own(self) -> None:
        """Import the modules of Trocar's own package for this kind, without looking for plugins."""
        with self._lock:  # re-entrant: a module may ask for a name while it is imported
            if self._package and not self._own_imported:
                package = importlib.import_module(self._package)
                for info in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{info.name}")
            self._own_imported = True

    def _points(self) -> dict[str, list[metadata.EntryPoint]]:
        """Entry points by name that have not been imported yet."""
        if self._pending is None:
            self._pending = {}
            for point in plugins.entry_points().get(self.kind, ()):
                self._pending.setdefault(point.name, []).append(point)
        return self._pending

    def _import_points(self, name: str) -> None:
        with self._lock:
            for point in self._points().get(name, ()):
                with plugins.importing(f"{self.noun} {name!r}", point.value, point.dist):
                    thing = point.load()
                    if not isinstance(thing, ModuleType):  # which has registered what it has
                        self._add(thing, name, _defined_in(thing, point.module))
            self._points().pop(name, None)


@dataclass(frozen=True)
class ByName:
    """Annotation of a field whose value is one of several registered models, told apart by the key `name`:
    `Annotated[SerializeAsAny[MethodConfig], ByName(METHODS)]`. The name is looked up when a value is validated.
    """

    registry: Registry[Any]

    def model_for(self, value: Any) -> type[BaseModel] | None:
        """The model that a section of a file would be validated by; None where its name is missing or unknown."""
        name = value.get("name") if isinstance(value, Mapping) else None
        model: type[BaseModel] | None = self.registry.find(name)
        return model

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._validated, handler(source))

    def _validated(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise ValueError("expected a section, such as {name: " + self.registry.names()[0] + "}")
        model = self.model_for(value)
        if model is None:
            context = {"key": ".name", "name": value.get("name"), "allowed": self.registry.names()}
            raise PydanticCustomError(
                NAME_MISSING if context["name"] is None else NAME_UNKNOWN, "unknown name", context
            )
        return model.model_validate(value)


@dataclass(frozen=True)
class NameOf:
    """Annotation of a field that holds a registered name: `Annotated[str, NameOf(DECODERS)]`."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._validated, handler(source))

    def _validated(self, value: Any) -> Any:
        if self.registry.find(value) is None:
            context = {"key": "", "name": value, "allowed": self.registry.names()}
            raise PydanticCustomError(NAME_UNKNOWN, "unknown name", context)
        return value


def _own_name(thing: Any) -> str:
    if isinstance(thing, type) and issubclass(thing, BaseModel):
        field = thing.model_fields.get("name")
        return "" if field is None or field.is_required() else str(field.default)
    return str(getattr(thing, "name", ""))


def _defined_in(thing: Any, otherwise: str) -> str:
    """The module of a class or function; other objects do not know theirs."""
    return str(thing.__module__) if isinstance(thing, type | FunctionType) else otherwise


def _defined_again(known: _Entry[Any], new: _Entry[Any]) -> bool:
    """Whether one definition was executed twice, as a cell of a notebook or a reloaded module is."""
    if known.module != new.module:
        return False
    names = [getattr(entry.thing, "__qualname__", None) for entry in (known, new)]
    return names[0] == names[1] and (names[0] is not None or known.module == "__main__")


def modules_of(value: Any) -> set[str]:
    """The modules whose code a configuration, a class, a function or another object is made of: those of its class and
    of the bases of that, and in a configuration also those of everything in it and of the things that it names.
    """
    if isinstance(value, Mapping):
        return {module for item in value.values() for module in modules_of(item)}
    if isinstance(value, list | tuple):
        return {module for item in value for module in modules_of(item)}
    if isinstance(value, FunctionType):
        return {value.__module__}
    found = {base.__module__ for base in (value if isinstance(value, type) else type(value)).__mro__}
    if isinstance(value, BaseModel):
        for name, inner in value:
            marks = [mark for mark in type(value).model_fields[name].metadata if isinstance(mark, NameOf)]
            found |= {mark.registry.module_of(inner) for mark in marks} | modules_of(inner)
    return found
