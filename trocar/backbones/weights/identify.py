"""What a weight file is: which published weights it fits, found from names and shapes alone.

A weight file of one's own in timm's layout, given together with its architecture: `ARCH@FILE`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from trocar.backbones.published.convert import Converted, convert, describe_nesting, nests, skeleton, unwrapped
from trocar.backbones.published.family import BACKBONES, Published
from trocar.backbones.weights.weights_file import read_checkpoint
from trocar.errors import ConfigError, TrocarError


@dataclass(frozen=True)
class WeightMatch:
    """An entry whose every tensor a file has, and how it was found there."""

    entry: Published
    converted: Converted


def matches(raw: Mapping[str, Any], part: str = "") -> list[WeightMatch]:
    """All published entries that `raw` fits, key by key and shape by shape; `raw` may be without data."""
    found, failed = [], set()
    for entry in BACKBONES.values():
        # Entries of one family and architecture differ in nothing that a file's names and shapes could tell.
        twin = (entry.family.name, entry.architecture, str(entry.arguments))
        if twin in failed:
            continue
        try:
            found.append(WeightMatch(entry, convert(entry, raw, "the file", part)))
        except TrocarError:
            failed.add(twin)
    return found


def only_match(path: Path, part: str = "") -> Published:
    """The one entry a file fits. Raises TrocarError if there is none, ConfigError with the choice if there are more."""
    raw = read_checkpoint(path, data=False)
    found = matches(raw, part)
    if not found:
        raise TrocarError(
            f"{path} fits none of the published backbones. {describe_nesting(raw)} For weights of your own name their "
            f"timm architecture, such as resnet50@{path}; `trocar inspect {path}` says more, and NAME@{path} why NAME "
            "does not fit"
        )
    if len(found) > 1:
        names = [match.entry.name for match in found]
        raise ConfigError(
            f"{path} fits {', '.join(names)}: equal names and shapes, but not equal data and preprocessing. "
            f"Say which it is: {names[0]}@{path}, or, if they are weights of your own, their architecture: "
            f"{found[0].entry.architecture}@{path}"
        )
    return found[0].entry


SIMILAR = 12
"""Architectures that are compared with a file which does not fit the one it was given as."""
SIZES = re.compile(r"tiny|small|medium|base|x*large|huge|giant|nano|pico|femto|atto|\d+")
"""What tells the members of one family apart in timm's names."""


def read_own(path: Path, part: str = "", *, data: bool = True) -> dict[str, Tensor]:
    """The tensors of a file by timm's keys, without the prefixes of wrappers (`module.`, `_orig_mod.`).

    A file that keeps tensors in several places is asked for one of them by `part`, such as "model_ema": nothing is
    guessed. Raises ConfigError for a place that is missing or not named, TrocarError for a file that cannot be read or
    has no tensors.
    """
    raw = read_checkpoint(path, data=data)
    places = {".".join(place): place for place, _ in nests(raw)}
    if not places:
        raise TrocarError(f"{path} holds no tensors; save model.state_dict()")
    if part not in places if part else len(places) > 1:
        listed = ", ".join(f"#{name}" if name else "the top level (save that alone)" for name in places)
        problem = f"has no {part!r}" if part else "keeps tensors in several places"
        raise ConfigError(f"{path} {problem}; say which is meant behind the file's name: {listed}")
    found: Any = raw
    for step in places[part] if part else next(iter(places.values())):
        found = found[step]
    stored = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    state = {unwrapped(key): value for key, value in stored.items()}
    if len(state) < len(stored):
        raise TrocarError(f"{path} has tensors twice, with and without a wrapper's prefix")
    return state


def stored_size(architecture: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """{"img_size": S} where a square position table says that weights of this timm name are for S pixels, else {}."""
    table = state.get("pos_embed")
    with torch.device("meta"):
        model: nn.Module = timm.create_model(architecture, num_classes=0)
    own, embed = getattr(model, "pos_embed", None), getattr(model, "patch_embed", None)
    grid, patch = getattr(embed, "grid_size", None), getattr(embed, "patch_size", None)
    if table is None or own is None or not grid or not patch or table.ndim != 3 or own.shape == table.shape:
        return {}
    patches = table.shape[1] - (own.shape[1] - math.prod(grid))
    side = math.isqrt(max(0, patches))
    return {"img_size": side * int(patch[0])} if side and side * side == patches else {}


def fitting(architecture: str, state: Mapping[str, Tensor]) -> str:
    """In words: which timm architectures with names like this one a file fits, or fits best."""
    inner = {key.partition(".")[0] for key in state}
    if len(inner) == 1 and "." in min(state):
        prefix = f"{inner.pop()}."
        bare = {key.removeprefix(prefix): value for key, value in state.items()}
        return f"All keys begin with {prefix!r}: save that module's own state_dict(). {fitting(architecture, bare)}"
    family = SIZES.sub("", architecture)
    alike = {name: difflib.SequenceMatcher(None, SIZES.sub("", name), family).ratio() for name in timm.list_models()}
    shares: dict[str, float] = {}
    for name in sorted(alike, key=lambda name: (-alike[name], len(name)))[:SIMILAR]:
        try:
            wanted = skeleton(name, ())
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        same = sum(key in state and state[key].shape == shape for key, shape in wanted.items())
        shares[name] = same / max(len(wanted), 1)
    best = sorted(shares, key=lambda name: -shares[name])[:3]
    whole = [name for name in best if shares[name] == 1]
    if whole:
        return f"It fits {', '.join(whole)}."
    shown = ", ".join(f"{name} ({shares[name]:.0%} of its tensors)" for name in best if shares[name] >= 0.2)
    return f"Nearest of those with similar names: {shown}." if shown else "No architecture with a similar name fits."
