"""Everything that an object holds, however deep: for finding state that a checkpoint would lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.weight_norm import WeightNorm

_VALUES = (torch.Tensor, np.ndarray, np.generic, int, float, str, bytes, type(None))
_OPAQUE = (type, FunctionType, MethodType, ModuleType, torch.device, torch.dtype)


def snapshot(root: object) -> dict[str, Any]:
    """A copy of every tensor, array, number and word that can be reached from `root`, by its path."""
    return {path: _copied(value) for path, value in _walk(root, "", set())}


def changed_outside(module: nn.Module, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Paths of what was changed or added between two snapshots of `module` and is not in its `state_dict`."""
    saved = set(module.state_dict()) | set(_derived(module))
    changed = (path for path in now if path not in before or not _equal(before[path], now[path]))
    return sorted(path for path in changed if path not in saved)


def _derived(module: nn.Module) -> Iterator[str]:
    """The product of weight_g and weight_v, which each forward pass computes anew."""
    for name, child in module.named_modules():
        for hook in child._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                yield f"{name}.{hook.name}"


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _VALUES):
        yield path, value
        return
    if isinstance(value, _OPAQUE) or id(value) in seen:
        return
    seen.add(id(value))
    for key, child in _children(value):
        yield from _walk(child, f"{path}.{key}" if path else str(key), seen)


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence | set | frozenset):
        yield from enumerate(value)
    else:
        for key, child in getattr(value, "__dict__", {}).items():
            # As the keys of a state_dict have it: a module's parameters, buffers and children go by their own names.
            if isinstance(value, nn.Module) and key in ("_parameters", "_buffers", "_modules"):
                yield from child.items()
            else:
                yield key, child


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and a == b
