"""`load_backbone`: any timm name, exported folder or run -> timm model, with every weight accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trocar.backbones.preprocess import fit_input_size
from trocar.backbones.source import WEIGHTS, BackboneSource, resolve
from trocar.errors import ConfigError, TrocarError


def load_backbone(name_or_path: str | Path, *, seed: int = 0, num_classes: int = 0, **timm_kwargs: Any) -> nn.Module:
    """A timm model in train mode on the CPU; with `num_classes=0` its forward gives pooled features [B,
    num_features].

    See `trocar.backbones.source.resolve` for the names. Everything that is drawn (random weights, a new
    classifier) follows from `seed` alone; torch's global random state is left as it was. Loading is strict:
    every stored tensor is used and every parameter filled, except the classifier when `num_classes` asks for
    another one. Raises ConfigError for an unknown name or an argument the architecture does not take,
    TrocarError for weights that do not fit.
    """
    source = resolve(name_or_path)
    if source.kind == "folder":
        return _load_folder(source.folder, seed, num_classes, timm_kwargs)
    return _create(source, seed, num_classes, timm_kwargs)


def random_like(name_or_path: str | Path, *, seed: int) -> nn.Module:
    """The same architecture and preprocessing as `name_or_path`, with weights drawn from `seed`: its
    baseline.
    """
    source = resolve(name_or_path)
    if source.kind == "folder":
        return _build(f"local-dir:{source.folder}", seed, num_classes=0)
    return _build(source.name, seed, num_classes=0)


def _create(source: BackboneSource, seed: int, num_classes: int, kwargs: dict[str, Any]) -> nn.Module:
    if source.kind == "random":
        return _build(source.name, seed, num_classes=num_classes, **kwargs)
    try:
        return _build(source.name, seed, pretrained=True, num_classes=num_classes, **kwargs)
    except (OSError, RuntimeError) as error:
        raise TrocarError(f"timm could not get the weights of {source.name!r}: {error}") from None


def _load_folder(folder: Path, seed: int, num_classes: int, kwargs: dict[str, Any]) -> nn.Module:
    size = kwargs.pop("img_size", None)
    model = _build(f"local-dir:{folder}", seed, num_classes=num_classes, **kwargs)
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TrocarError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    load_strict(model, state, str(folder))
    return fit_input_size(model, size if isinstance(size, int) else size[0]) if size else model


def load_strict(model: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Copy `state` into `model`; TrocarError lists every key that is missing, unused or of another shape.

    Only the classifier may differ: it is skipped when its shape is not the model's or one of the two has
    none.
    """
    own = model.state_dict()
    differing = {
        k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
    }
    wrong = sorted(k for k in differing if not _is_classifier(model, k))
    if wrong:
        lines = [_difference(key, own.get(key), state.get(key)) for key in wrong]
        raise TrocarError(
            f"{origin}: the weights do not fit the architecture:\n" + "\n".join(f"  {line}" for line in lines)
        )
    model.load_state_dict({k: v for k, v in state.items() if k not in differing}, strict=False)


def _is_classifier(model: nn.Module, key: str) -> bool:
    names = dict(getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return any(key == f"{name}.weight" or key == f"{name}.bias" for name in names)


def _difference(key: str, own: Tensor | None, stored: Tensor | None) -> str:
    if own is None:
        return f"{key}: stored, but this architecture has no such tensor"
    if stored is None:
        return f"{key}: missing from the file"
    return f"{key}: shape {list(stored.shape)} stored, {list(own.shape)} needed"


def _build(name: str, seed: int, **kwargs: Any) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = timm.create_model(name, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{name!r} does not take these arguments ({', '.join(sorted(kwargs))}): {error}") from None
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(f"{name!r} cannot be built: {error}") from None
    if not hasattr(model, "_model_args"):  # timm before 1.0.31 does not keep what a model was built with
        object.__setattr__(model, "_model_args", kwargs)
    return model
