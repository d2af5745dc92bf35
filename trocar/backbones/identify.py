"""What a weight file is: which published weights it fits, found from names and shapes alone; and a numeric
fingerprint of a backbone: what it answers to one fixed picture.

A weight file of one's own in timm's layout is given together with its architecture: `ARCH@FILE`.
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

from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.published.convert import Converted, convert, describe_nesting, nests, skeleton, unwrapped
from trocar.backbones.published.family import BACKBONES, Published
from trocar.backbones.weights_file import read_checkpoint
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


TOLERANCE = 1e-3
"""Allowed difference, relative to the features' standard deviation: kernels and threads move the sixth digit."""
VERSION = "f1"


@dataclass(frozen=True)
class Fingerprint:
    """Mean, standard deviation and three fixed projections of the pooled features of one fixed picture."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        return ":".join([VERSION, *(f"{value:.6g}" for value in self.values)])

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """The inverse of `str`. Raises ConfigError for anything else."""
        version, *values = text.split(":")
        try:
            numbers = tuple(float(value) for value in values)
        except ValueError:
            numbers = ()
        if version != VERSION or len(numbers) != 5:
            raise ConfigError(f"{text!r} is no fingerprint; expected {VERSION} and five numbers, divided by colons")
        return cls(numbers)

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same weights, up to rounding on another machine."""
        scale = max(abs(other.values[1]), 1e-12)
        return all(abs(a - b) <= TOLERANCE * scale for a, b in zip(self.values, other.values, strict=True))


def same_value(first: object, second: object) -> bool:
    """Equal, or written fingerprints of the same weights: another machine rounds them differently."""
    if first == second:
        return True
    if not all(isinstance(x, str) and x.startswith(f"{VERSION}:") for x in (first, second)):
        return False
    return Fingerprint.parse(str(first)).matches(Fingerprint.parse(str(second)))


@torch.no_grad()
def fingerprint(model: nn.Module) -> Fingerprint:
    """Of a timm model with pooled output, at its own input size; the model's mode is left as it was."""
    shape = describe_backbone(model)
    first = next(model.parameters())
    channels = int(
        getattr(model, "in_chans", None) or dict(getattr(model, "pretrained_cfg", {})).get("input_size", (3,))[0]
    )
    was_training = model.training
    model.eval()
    try:
        features = model(_picture(channels, *shape.size).to(first)).float().flatten().cpu()
    finally:
        model.train(was_training)
    n = torch.arange(len(features), dtype=torch.float64)
    waves = [torch.sin(n * w) * math.sqrt(2 / len(features)) for w in (0.7, 1.9, 3.1)]
    values = [features.mean(), features.std(), *(features.double() @ wave for wave in waves)]
    return Fingerprint(tuple(float(value) for value in values))


def _picture(channels: int, height: int, width: int) -> Tensor:
    """A smooth, coloured pattern without symmetry, normalised like a picture: [1, channels, height, width]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = [torch.sin(6 * x + 2 * c) * torch.cos(9 * y - c) + torch.sin(40 * x * y + c) / 2 for c in range(channels)]
    return torch.stack(planes)[None]
