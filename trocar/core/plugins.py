"""Packages of other people that register things with Trocar: how they are imported, and how results name their code.

A result that a plugin's code took part in is only the same as another one if that code is. So what a run, a study stage
and a kept evaluation are known by includes distribution, version and source hash of every plugin they use; plugins that
are merely installed do not count.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

from trocar.errors import ConfigError, TrocarError

OWN = "trocar"
GROUPS = "trocar."
"""What the entry point groups of all kinds of things begin with."""
SOURCES = {".py", ".so", ".pyd", ".yaml", ".yml", ".toml", ".json", ".csv", ".txt"}
"""Endings of the files of a plugin that count: code, and what code reads. Others may be pictures and weights."""
HASHED_WHOLE = 8 << 20
"""Bytes up to which a file of a plugin is hashed by its content; a larger one (weights, a table) counts by its size."""
FIELDS = ("distribution", "version", "source")
"""What a plugin is known by."""

_sources: dict[str, str] = {}
"""Top-level package of each plugin -> hash of its source as it was when it registered something."""


@cache
def entry_points() -> Mapping[str, list[metadata.EntryPoint]]:
    """All entry points of plugins by kind. The metadata of every installed distribution is read, once a process."""
    found = metadata.entry_points()
    groups = [group for group in found.groups if group.startswith(GROUPS)]
    return {group.removeprefix(GROUPS): list(found.select(group=group)) for group in groups}


def import_plugins(names: Iterable[str]) -> None:
    """Import packages by their import names, so that they register what they have.

    Raises ConfigError for a package that is not there or whose import fails, with its name.
    """
    for name in names:
        with importing(f"plugin {name!r}", name):
            importlib.import_module(name)


@contextmanager
def importing(what: str, module: str, distribution: metadata.Distribution | None = None) -> Iterator[None]:
    """Turns an error in the import of a plugin's `module` into a ConfigError that names the plugin and the line; `what`
    is what is wanted of it.
    """
    whose = f" of {distribution.name} {distribution.version}" if distribution is not None else ""
    try:
        yield
    except TrocarError as error:
        raise ConfigError(f"{what}: {module}{whose}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module.partition(':')[0]}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what}: {module}{whose} cannot be imported: {_reason(error)}") from error
        raise ConfigError(
            f"{what}: there is no package {error.name!r}; install it, or add the folder that it is in to PYTHONPATH "
            "(the name is the one that Python imports, which may differ from the one that pip installs)"
        ) from None
    except Exception as error:
        raise ConfigError(f"{what}: {module}{whose} cannot be imported: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def note_plugin(module: str) -> None:
    """Remember that `module` registers something, and the source of its package as it is now."""
    package = top_level(module)
    if package != OWN:
        _sources[package] = _source_hash(package)


def plugins_in(modules: Iterable[str]) -> dict[str, dict[str, str]]:
    """The plugins among the packages of these modules: package -> `distribution`, `version` ('' if not installed) and
    `source` (hash of its files), in the order of their names.
    """
    packages = sorted({top_level(module) for module in modules} & _sources.keys())
    return {package: {**_installed_as(package), "source": _sources[package]} for package in packages}


def changed_plugins(before: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What differs between plugins as `plugins_in` found them and as they are here and now, a line for each.

    Raises ConfigError for one that cannot be imported.
    """
    import_plugins(before)
    return plugin_changes(
        before, {package: {**_installed_as(package), "source": _source_hash(package)} for package in before}
    )


def plugin_changes(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What differs in the plugins that are in both, as `plugins_in` found them at two times, a line for each."""
    fields = [(package, field) for package in before if package in now for field in FIELDS]
    return [
        f"plugin {package}: {field} was {before[package].get(field)!r} and is {now[package].get(field)!r}"
        for package, field in fields
        if before[package].get(field) != now[package].get(field)
    ]


def top_level(module: str) -> str:
    """`my_package.methods.byol` and `my_package:Byol` -> `my_package`."""
    return module.partition(":")[0].partition(".")[0]


def _source_hash(package: str) -> str:
    """16 hex digits over names and content of the `SOURCES` of a package. What is typed into a notebook has no file: it
    differs from everything else, so that nothing is resumed or reused that may have been computed otherwise.
    """
    module = sys.modules.get(package)
    digest = hashlib.sha256()
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    single = getattr(module, "__file__", None)
    if not folders and (single is None or not Path(single).is_file()):
        return uuid.uuid4().hex[:16]
    for folder in folders or [Path(str(single)).parent]:
        for path in sorted(folder.rglob("*")) if folders else [Path(str(single))]:
            parts = path.relative_to(folder).parts
            hidden = any(part.startswith(".") for part in parts)
            if path.suffix in SOURCES and not hidden and path.is_file():
                size = path.stat().st_size
                content = hashlib.sha256(path.read_bytes()).hexdigest() if size <= HASHED_WHOLE else ""
                digest.update(f"{'/'.join(parts)}\n{size}\n{content}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _installed_as(package: str) -> dict[str, str]:
    """Name and version of the distribution that declares entry points in the package, else of the one it belongs to."""
    declared = (
        point.dist for points in entry_points().values() for point in points if top_level(point.value) == package
    )
    found = next((distribution for distribution in declared if distribution is not None), None)
    if found is None:
        names = metadata.packages_distributions().get(package, ())
        found = metadata.distribution(names[0]) if names else None
    return {"distribution": found.name if found else "", "version": found.version if found else ""}
