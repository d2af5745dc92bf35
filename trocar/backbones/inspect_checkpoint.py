"""What a weight file, an exported backbone or a run's checkpoint is, without loading it into a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from trocar.backbones.identify import WeightMatch, matches
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.published.convert import nests
from trocar.backbones.source import WEIGHTS, WeightHistory, find_backbone_folder, resolve
from trocar.backbones.weights_file import SUFFIXES, read_checkpoint
from trocar.core.progress import Console
from trocar.errors import ConfigError, TrocarError


def recognises(path: Path) -> bool:
    """Whether this is a weight file, or a folder with a backbone in it."""
    if path.is_file():
        return path.suffix.lower() in SUFFIXES
    try:
        find_backbone_folder(path)
    except ConfigError:
        return False
    return True


def show(path: Path, console: Console, *, sheet: Path | None = None, verify: bool = False) -> int:
    """Print what it is; with `verify` load it and print its fingerprint. Returns 1 if it does not load, else 0."""
    if sheet is not None:
        raise ConfigError("--sheet goes with a shards folder; weights have no pictures")
    code = _show_folder(path, console) if path.is_dir() else _show_file(path, console)
    if verify and not code:
        code = _verify(path, console)
    return code


def show_named(name: str, console: Console, history: WeightHistory, *, verify: bool = False) -> int:
    """Print what `NAME@FILE` or `ARCH@FILE` loads; the rest as `show`. Raises what `load_backbone` raises."""
    model = load_backbone(name)
    source, shape = resolve(name), describe_backbone(model)
    _line(console, "backbone", name)
    _line(console, "architecture", source.architecture)
    _line(console, "input", f"{shape.size}, mean {shape.mean}, std {shape.std}")
    tensors = model.state_dict().values()
    _line(console, "tensors", f"{len(tensors)}, {sum(t.numel() for t in tensors) / 1e6:.2f} M values; every one fits")
    for part in history.recorded(name):
        seen = ", ".join(seen["dataset"] for seen in part["seen"]) if part["known"] else "not recorded"
        _line(console, "trained on", f"{seen} ({part['name']})")
    return _verify(name, console) if verify else 0


def _line(console: Console, name: str, value: object) -> None:
    console.print(f"{name:12s} {value}", markup=False, soft_wrap=True)


def _show_folder(path: Path, console: Console) -> int:
    folder = find_backbone_folder(path)
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise TrocarError(f"{folder}: {error}") from None
    about, cfg = config.get("trocar") or {}, config.get("pretrained_cfg") or {}
    _line(console, "backbone", folder)
    _line(console, "architecture", f"{config.get('architecture')} {config.get('model_args') or ''}")
    _line(console, "input", f"{cfg.get('input_size')}, mean {cfg.get('mean')}, std {cfg.get('std')}")
    _line(console, "tensors", f"{len(shapes)}, {sum(map(math.prod, shapes)) / 1e6:.2f} M values")
    for key in ("method", "step", "steps", "seed", "data"):
        if key in about:
            _line(console, key, about[key])
    if init := about.get("init"):
        _line(console, "started from", f"{init['name']} (licence {init['licence']})")
    return 0


def _show_file(path: Path, console: Console) -> int:
    raw = read_checkpoint(path, data=False)
    _line(console, "file", f"{path}, {path.stat().st_size / 1e6:.1f} MB")
    for place, count in nests(raw):
        _line(console, "tensors", f"{count} under {'.'.join(place) or 'the top level'}")
    found = matches(raw)
    if not found:
        _line(console, "fits", "none of the published backbones; weights of your own are named ARCH@FILE")
        for key, value in _sample(raw).items():
            _line(console, "", f"{key} {list(value.shape)}")
        return 1
    _line(console, "fits", ", ".join(match.entry.name for match in found))
    _about(found[0], console)
    names = ", ".join(f"{match.entry.name}@{path}" for match in found)
    _line(console, "use it as", f"{names}; or, if it is weights of your own, {found[0].entry.architecture}@{path}")
    return 0


def _about(match: WeightMatch, console: Console) -> None:
    entry, converted = match.entry, match.converted
    size = converted.arguments.get("img_size") or entry.preprocessing.size
    values = sum(tensor.numel() for tensor in converted.state.values())
    _line(console, "family", f"{entry.family.title}, {entry.method}")
    _line(console, "architecture", f"{entry.architecture} {converted.arguments or ''}")
    _line(console, "image size", size)
    _line(console, "lies at", converted.layout)
    _line(console, "backbone", f"{len(converted.state)} tensors, {values / 1e6:.2f} M values; every one fits")
    reasons: dict[str, int] = {}
    for why in converted.unused.values():
        reasons[why] = reasons.get(why, 0) + 1
    for why, count in reasons.items():
        _line(console, "left out", f"{count} tensors: {why}")
    _line(console, "licence", entry.family.licence)


def _sample(raw: Mapping[str, Any]) -> dict[str, Tensor]:
    """A few tensors of the largest dictionary, for somebody to recognise."""
    place: Any = raw
    for step in max(nests(raw), key=lambda nest: nest[1], default=((), 0))[0]:
        place = place[step]
    return dict([(key, value) for key, value in place.items() if isinstance(value, Tensor)][:8])


def _verify(path: str | Path, console: Console) -> int:
    from trocar.backbones.identify import fingerprint

    try:
        model = load_backbone(path)
    except ConfigError as error:
        _line(console, "fingerprint", error)
        return 1
    _line(console, "fingerprint", fingerprint(model))
    return 0
