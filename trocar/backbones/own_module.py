"""A backbone of somebody's own: any module whose forward makes features [n, D] of pictures [n, 3, S, S].

It is known by its class, the shapes and values of its weights, and the source of the classes it is built of; it is
saved as safetensors beside the path of its class, and never as a pickle.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import nn

from trocar.backbones.preprocess import Preprocessing, describe_backbone
from trocar.backbones.source import MODULE
from trocar.errors import ConfigError, TrocarError

LIBRARIES = ("torch", "torchvision", "timm")
"""Their modules are known by their versions; only the source of other ones is hashed."""


def name_of(model: nn.Module) -> str:
    """`module:package.file:Class`, as it stands in records."""
    kind = type(model)
    return f"{MODULE}{kind.__module__}:{kind.__qualname__}"


def adopt(model: nn.Module, preprocessing: Preprocessing | None = None) -> nn.Module:
    """A copy that says what it is in timm's words, for `describe_backbone` and everything that asks by them.

    `preprocessing` replaces what the model says of itself (default: timm's `pretrained_cfg`, else 224 px and ImageNet's
    mean and std). A timm model keeps its architecture. Raises ConfigError for a module that can't be copied.
    """
    try:
        own = copy.deepcopy(model)
    except (RuntimeError, TypeError, copy.Error) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be copied ({error}), and each network needs its own"
        ) from None
    said: dict[str, Any] = dict(getattr(own, "pretrained_cfg", None) or {})
    shape = preprocessing or describe_backbone(own)
    height, width = shape.size
    said |= {"input_size": (3, height, width), "mean": shape.mean, "std": shape.std}
    said |= {"interpolation": shape.interpolation, "fixed_input_size": shape.fixed_size}
    if not _is_library(type(own)) or "architecture" not in said:
        said["architecture"] = name_of(own)
        object.__setattr__(own, "_model_args", {"source": source_hash(own)})
    object.__setattr__(own, "pretrained_cfg", said)
    return own


def identity(model: nn.Module) -> dict[str, str]:
    """What tells a module from all others: `class`, `source` and `weights`, each a name or 16 hex digits."""
    return {"class": name_of(model), "source": source_hash(model), "weights": weights_hash(model)}


def weights_hash(model: nn.Module) -> str:
    """16 hex digits over names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def source_hash(model: nn.Module) -> str:
    """16 hex digits over the source of every class in `model` that is no library's, and over its plain settings.

    What a class calls outside of itself is not in it. Raises ConfigError for a class without a source, such as one
    typed into a bare interpreter: two versions of it could not be told apart.
    """
    digest = hashlib.sha256()
    for kind in sorted({type(part) for part in model.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if _is_library(kind):
            continue
        try:
            digest.update(inspect.getsource(kind).encode())
        except (OSError, TypeError) as error:
            raise ConfigError(
                f"the source of {kind.__module__}.{kind.__qualname__} cannot be read ({error}); put the class into a "
                "file or a notebook's cell"
            ) from None
    for name, part in model.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str) and k != "training"}
        settings = part.extra_repr() if _is_library(type(part)) else sorted(plain.items())
        digest.update(f"{name}{type(part).__qualname__}{settings}".encode())
    return digest.hexdigest()[:16]


def build(architecture: str, folder: Path) -> nn.Module:
    """A new module of the class that `folder`'s config.json names, built without arguments.

    Raises ConfigError, which says how to load the weights, for a class that is not there or takes arguments.
    """
    path = architecture.removeprefix(MODULE)
    how = f"; build it yourself and hand it in: trocar.load_backbone({str(folder)!r}, model=...)"
    try:
        kind = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{folder}: its class {path} cannot be imported ({error}){how}") from None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TrocarError(f"{folder}: {path} is no torch module")
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(f"{folder}: {path} cannot be built without arguments ({error}){how}") from None


def stored_preprocessing(folder: Path) -> Preprocessing:
    """Of a saved module, as its config.json says."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    _, height, width = said["input_size"]
    return Preprocessing((height, width), tuple(said["mean"]), tuple(said["std"]), said["interpolation"])


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES
