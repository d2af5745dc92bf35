"""Published file -> tensors under timm's keys, with every key of both sides accounted for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import Tensor

from trocar.backbones import architectures as _registers
from trocar.backbones.published.family import Family, FileLayout, Published, State, UnfitError
from trocar.backbones.weights_file import NOT_FINITE
from trocar.errors import ConfigError, TrocarError

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of DistributedDataParallel and torch.compile, in either order."""
SHOWN = 12
assert _registers


@dataclass(frozen=True)
class Converted:
    """Weights of one entry under timm's keys, the timm arguments the file asks for, and where they lay in it."""

    state: dict[str, Tensor]
    arguments: dict[str, Any]
    layout: FileLayout
    unused: dict[str, str]
    """Published keys that were left out -> why."""


def convert(entry: Published, raw: Mapping[str, Any], origin: str, part: str = "") -> Converted:
    """Map the content `raw` of a file onto `entry`'s timm model. `part` asks for "teacher" or "student".

    Works on tensors without data (device meta) as well. Raises TrocarError that lists every key missing, unknown, of
    another shape or with values that are not finite, and names the most likely cause; ConfigError for a part the file
    does not have.
    """
    layout = choose_layout(entry.family, raw, origin, part)
    found, names = _open(entry.family, raw, layout)
    unused = {key: why for key in found if (why := _why_unused(entry.family, key))}
    arguments = {**entry.arguments, **entry.fits(found)}
    wanted = skeleton(entry.architecture, tuple(sorted(arguments.items())))
    state: dict[str, Tensor] = {}
    problems: list[str] = []
    used: set[str] = set()
    for key, shape in wanted.items():
        if any(re.fullmatch(pattern, key) for pattern in entry.family.absent):
            continue
        source = entry.family.source(key)
        used.update(source.keys)
        missing = [k for k in source.keys if k not in found]
        if missing:
            problems += [f"{k}: missing from the file ({key} of the timm model)" for k in missing]
            continue
        try:
            tensor = _make(source.make, [found[k] for k in source.keys])
        except UnfitError as error:
            problems.append(f"{names[source.keys[-1]]}: {error}")
            continue
        if tensor is None or tensor.shape != shape:
            stored = ", ".join(str(list(found[k].shape)) for k in source.keys)
            problems.append(f"{' + '.join(names[k] for k in source.keys)}: shape {stored} stored, {list(shape)} needed")
            continue
        if not tensor.is_meta and not torch.isfinite(tensor).all():
            problems.append(f"{names[source.keys[0]]}: {NOT_FINITE}")
            continue
        state[key] = tensor
    problems += [
        f"{names[k]}: in the file, but {entry.name} has no such tensor" for k in found if k not in used | unused.keys()
    ]
    if problems:
        raise TrocarError(_refusal(entry, origin, layout, problems, raw))
    return Converted(state, arguments, layout, {names[k]: why for k, why in unused.items()})


def choose_layout(family: Family, raw: Mapping[str, Any], origin: str, part: str = "") -> FileLayout:
    """The first of the family's layouts that `raw` has. Raises TrocarError if there is none."""
    present = [layout for layout in family.layouts if _tensors(raw, layout)]
    chosen = next((layout for layout in present if not part or layout.part == part), None)
    if chosen is not None:
        return chosen
    if present:
        parts = ", ".join(sorted({layout.part for layout in present if layout.part}))
        raise ConfigError(f"{origin} has no {part!r}; it has {parts or 'no named parts'}")
    places = "; ".join(str(layout) for layout in family.layouts)
    raise TrocarError(
        f"{origin}: no weights where files of {family.title} have them ({places}). {describe_nesting(raw)}"
    )


@lru_cache(maxsize=64)
def skeleton(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> dict[str, torch.Size]:
    """Keys and shapes of a headless timm model, without allocating it."""
    with torch.device("meta"):
        model = timm.create_model(architecture, **{"num_classes": 0, **dict(arguments)})
    return {key: value.shape for key, value in model.state_dict().items()}


def describe_nesting(raw: Mapping[str, Any]) -> str:
    """In words, where a file keeps its tensors: "tensors lie under: teacher (150), student (150)"."""
    places = {".".join(path) or "the top level": count for path, count in nests(raw)}
    if not places:
        return "It holds no tensors at all."
    return "Its tensors lie under: " + ", ".join(f"{place} ({count})" for place, count in places.items()) + "."


def nests(raw: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """(path, number of tensors) of every dictionary in `raw` that holds tensors itself; optimizer state left out."""
    count = sum(isinstance(value, Tensor) for value in raw.values())
    if count:
        yield path, count
    for key, value in raw.items():
        if isinstance(value, Mapping) and isinstance(key, str) and "optim" not in key and len(path) < 6:
            yield from nests(value, (*path, key))


def _tensors(raw: Mapping[str, Any], layout: FileLayout) -> State:
    """Tensors at the layout's place, wrappers' prefixes taken off; {} if there are none under its prefix."""
    place: Any = raw
    for step in layout.path:
        place = place.get(step) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        return {}
    stored = {key: value for key, value in place.items() if isinstance(value, Tensor)}
    tensors = {unwrapped(key): value for key, value in stored.items()}
    if len(tensors) < len(stored):
        raise TrocarError("the file has tensors twice, with and without a wrapper's prefix: not a published layout")
    return tensors if any(key.startswith(layout.prefix) for key in tensors) else {}


def _open(family: Family, raw: Mapping[str, Any], layout: FileLayout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by canonical key, and canonical key -> the key as it stands in the file."""
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key, value in _tensors(raw, layout).items():
        bare = key.removeprefix(layout.prefix)
        # What lies outside the prefix keeps its name, so that it can't be taken for a part of the backbone.
        canonical = family.canonical(bare) if key.startswith(layout.prefix) else key
        if canonical in names:  # one of the two would vanish without a word
            raise TrocarError(
                f"the file has {canonical} twice, as {names[canonical]} and as {key}: not a published layout"
            )
        found[canonical], names[canonical] = value, key
    return found, names


def unwrapped(key: str) -> str:
    """The key without the prefixes of `WRAPPERS`."""
    for _ in range(2):
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
    return key


def _why_unused(family: Family, key: str) -> str | None:
    return next((rule.why for rule in family.unused if re.fullmatch(rule.pattern, key)), None)


def _make(make: Any, tensors: list[Tensor]) -> Tensor | None:
    try:
        made: Tensor = make(*tensors)
    except (RuntimeError, IndexError):
        return None
    return made


def _refusal(entry: Published, origin: str, layout: FileLayout, problems: list[str], raw: Mapping[str, Any]) -> str:
    shown = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        shown.append(f"  ... and {len(problems) - SHOWN} more")
    head = f"{origin} does not hold the weights of {entry.name} ({entry.architecture}), looked for at {layout}:"
    return "\n".join([head, *shown, _likely_cause(entry, layout, problems, raw)])


def _likely_cause(entry: Published, layout: FileLayout, problems: list[str], raw: Mapping[str, Any]) -> str:
    missing = sum("missing from" in p for p in problems)
    shapes = sum("shape" in p for p in problems)
    strangers = len(problems) - missing - shapes
    elsewhere = [path for path, count in nests(raw) if path != layout.path]
    if missing and elsewhere and missing > 20:
        return f"Most likely a training checkpoint in a form of its own. {describe_nesting(raw)}"
    if missing and strangers and missing > 20:
        return "Most likely weights of another family: `trocar inspect FILE` says which one fits."
    if shapes and not missing and not strangers:
        return "Most likely another size of the same architecture, or a file that was edited."
    if missing and not strangers:
        return "Most likely an incomplete or edited file."
    return "Most likely an edited file, or a variant with other layers: `trocar inspect FILE` lists what it holds."
