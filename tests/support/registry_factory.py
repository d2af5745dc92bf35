"""Registries that a test may change, and packages of other people that register something."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from trocar.core import plugins
from trocar.core.registry import Registry


def changeable(registry: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """The registry, which is as it was before when the test ends."""
    registry.names()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return registry


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], points: Mapping[str, Mapping[str, str]]
) -> None:
    """A folder on Python's path with these files and, as pip leaves it, the distribution `their-plugin` 1.2 that
    declares entry points: group -> name -> value.
    """
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    about = folder / "their_plugin-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.2\n", encoding="utf-8")
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in named.items()) for group, named in points.items()]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    forget(monkeypatch)


@contextmanager
def plugin_module(
    registry: Registry[Any], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> Iterator[Path]:
    """Within, a module `name` with this text can be imported, which registers something with `registry`; its file."""
    changeable(registry, monkeypatch)
    forget(monkeypatch)
    monkeypatch.syspath_prepend(folder)
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    try:
        yield file
    finally:
        sys.modules.pop(name, None)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find anew what this process knows of plugins; it knows what it did before when the test ends."""
    for name in ("entry_points", "_installed_as"):
        monkeypatch.setattr(plugins, name, cache(getattr(plugins, name).__wrapped__))
    monkeypatch.setattr(plugins, "_sources", dict(plugins._sources))


def imported_anew(name: str) -> None:
    """Import a module as a new process would, after its file was edited."""
    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        del sys.modules[module]
    importlib.invalidate_caches()
    importlib.import_module(name)
