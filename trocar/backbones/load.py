"""`load_backbone`: timm name, published weights, exported folder or run -> timm model, all weights accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trocar.backbones import own_module
from trocar.backbones.identify import Fingerprint, fingerprint, fitting, read_own, stored_size
from trocar.backbones.preprocess import POSITIONS, Resampling, fit_input_size, resampling_of, set_resampling
from trocar.backbones.published.build import build, is_classifier, load_fetched, load_from_file
from trocar.backbones.published.family import BACKBONES
from trocar.backbones.source import MODULE, WEIGHTS, BackboneSource, Origin, resolve, set_origin
from trocar.backbones.weight_names import why_not
from trocar.backbones.weights_file import require_finite
from trocar.core.files import sha256_of
from trocar.errors import ConfigError, TrocarError

SHOWN = 24
"""Keys that an error lists."""

LOCAL = "local-dir:"  # timm's prefix of folders in its own layout


def load_backbone(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    num_classes: int = 0,
    expect: str | None = None,
    positions: Resampling | None = None,
    model: nn.Module | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """A timm model in train mode on the CPU; with `num_classes=0` its forward gives pooled features [B,
    num_features].

    See `trocar.backbones.source.resolve` for the names. Everything that is drawn (random weights, a new
    classifier) follows from `seed` alone; torch's global random state is left as it was. Loading is strict:
    every stored tensor is used or on its family's list of parts a backbone has no use for, and every parameter
    is filled, except the classifier when `num_classes` asks for another one. `expect` pins the weights: a
    fingerprint (`trocar inspect` prints it) that the loaded model must have. `positions` says how a vision
    transformer's position table is resampled (`trocar.backbones.preprocess`); None: as in DINO for weights that come
    from its code or are DINOv2's without registers, as in timm for all others. `model`, for a folder that holds a
    module of somebody's own class, is one of that class to load the weights into a copy of. Raises ConfigError for an
    unknown name or an argument the architecture does not take, TrocarError for weights that do not fit or are not
    finite.
    """
    source = resolve(name_or_path)
    if source.kind == "module":
        raise ConfigError(f"{name_or_path} is no name of weights but a class: hand in the module itself, in Python")
    if source.kind == "folder" and source.architecture.startswith(MODULE):
        loaded = _load_module(source.folder, model)
    elif model is not None:
        raise ConfigError(f"{name_or_path}: model is for a folder with a module of your own class, and this is none")
    else:
        loaded = _load(source, seed, {"num_classes": num_classes, **timm_kwargs}, positions)
    require_finite(loaded.state_dict(), str(name_or_path))
    if expect is not None:
        _check_fingerprint(loaded, Fingerprint.parse(expect), str(name_or_path))
    return loaded


def _load_module(folder: Path, model: nn.Module | None) -> nn.Module:
    """The module of somebody's own class in `folder`, in a copy of `model` or in a new one of the class it names."""
    architecture = BackboneSource("folder", folder=folder).architecture
    if model is not None and own_module.name_of(model) != architecture:
        raise ConfigError(f"{folder} holds a {architecture}, and model is a {own_module.name_of(model)}")
    network = own_module.build(architecture, folder) if model is None else model
    found = own_module.adopt(network, own_module.stored_preprocessing(folder))
    load_strict(found, load_weights(folder), str(folder))
    return found.train()


def _load(source: BackboneSource, seed: int, kwargs: dict[str, Any], positions: Resampling | None) -> nn.Module:
    if source.kind == "folder":
        return _load_folder(source.folder, seed, positions, **kwargs)
    if source.kind == "published":
        return _load_published(source, seed, positions, kwargs)
    if source.kind == "file":
        return _load_own(source, seed, positions, **kwargs)
    # timm's own weights are resampled after loading: timm knows its own way alone.
    size = kwargs.pop("img_size", None) if source.kind == "timm" and positions == "dino" else None
    model = _create(source, seed, kwargs)
    set_resampling(model, positions or resampling_of(model))
    return fit_input_size(model, _side(size)) if size else model


def _check_fingerprint(model: nn.Module, wanted: Fingerprint, name: str) -> None:
    found = fingerprint(model)
    if not found.matches(wanted):
        raise TrocarError(f"{name} are other weights than expected: their fingerprint is {found}, not {wanted}")


def random_like(name_or_path: str | Path, *, seed: int) -> nn.Module:
    """The same architecture and preprocessing as `name_or_path`, with weights drawn from `seed`: its
    baseline.
    """
    source = resolve(name_or_path)
    if source.kind == "folder":
        return _build(f"{LOCAL}{source.folder}", seed, num_classes=0)
    return _build(source.name, seed, num_classes=0)


def outline(name_or_path: str | Path) -> nn.Module:
    """The same architecture and preprocessing on torch's meta device: names and shapes without any values, at once."""
    source = resolve(name_or_path)
    with torch.device("meta"):
        return _build(f"{LOCAL}{source.folder}" if source.kind == "folder" else source.name, 0, num_classes=0)


def _create(source: BackboneSource, seed: int, kwargs: dict[str, Any]) -> nn.Module:
    if source.kind == "random":
        return _build(source.name, seed, **kwargs)
    try:
        return _build(source.name, seed, pretrained=True, **kwargs)
    except (OSError, RuntimeError) as error:
        raise TrocarError(why_not(source.name, error)) from None


def _load_published(
    source: BackboneSource, seed: int, positions: Resampling | None, kwargs: dict[str, Any]
) -> nn.Module:
    assert source.entry is not None
    entry, part = source.entry, source.part
    with _explained(entry.name, kwargs), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source.file is not None:
            return load_from_file(entry, source.file, part, positions=positions, **kwargs)
        return load_fetched(entry, part, positions=positions, **kwargs)


def _load_folder(folder: Path, seed: int, positions: Resampling | None, num_classes: int, **kwargs: Any) -> nn.Module:
    size = kwargs.pop("img_size", None)
    model = _build(f"{LOCAL}{folder}", seed, num_classes=num_classes, **kwargs)
    load_strict(model, load_weights(folder), str(folder))
    if inherited := read_origin(folder):
        set_origin(model, inherited)
    if how := positions or read_resampling(folder):
        set_resampling(model, how)
    return fit_input_size(model, _side(size)) if size else model


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors in the folder of a backbone. Raises TrocarError for a file that cannot be read."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise TrocarError(f"{folder / WEIGHTS} cannot be read: {error}") from None


def _side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]


def _load_own(
    source: BackboneSource, seed: int, positions: Resampling | None, num_classes: int, **kwargs: Any
) -> nn.Module:
    assert source.file is not None
    size = kwargs.pop("img_size", None)
    state = read_own(source.file, source.part)
    model = _build(source.name, seed, num_classes=num_classes, **stored_size(source.name, state), **kwargs)
    try:
        load_strict(model, state, f"{source.name}@{source.file}")
    except TrocarError as error:
        raise TrocarError(f"{error}\n{fitting(source.architecture, state)}") from None
    set_origin(model, Origin(f"{source.name}@{source.file.name}", sha256=sha256_of(source.file)))
    set_resampling(model, positions or resampling_of(model))
    return fit_input_size(model, _side(size)) if size else model


def load_strict(model: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Copy `state` into `model`; TrocarError lists the keys that are missing, unused or of another shape.

    Only the classifier may differ: it is skipped when its shape is not the model's or one of the two has
    none.
    """
    own = model.state_dict()
    differing = {
        k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape
    }
    wrong = sorted(k for k in differing if not is_classifier(model, k))
    if wrong:
        lines = [_difference(key, own.get(key), state.get(key)) for key in wrong[:SHOWN]]
        lines += [f"... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise TrocarError(
            f"{origin}: the weights do not fit the architecture:\n" + "\n".join(f"  {line}" for line in lines)
        )
    model.load_state_dict({k: v for k, v in state.items() if k not in differing}, strict=False)


def _difference(key: str, own: Tensor | None, stored: Tensor | None) -> str:
    if own is None:
        return f"{key}: stored, but this architecture has no such tensor"
    if stored is None:
        return f"{key}: missing from the file"
    return f"{key}: shape {list(stored.shape)} stored, {list(own.shape)} needed"


def _build(name: str, seed: int, **kwargs: Any) -> nn.Module:
    known = BACKBONES.get(name) if name in BACKBONES else None
    with _explained(name, kwargs), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = build(known, None, **kwargs) if known is not None else timm.create_model(name, **kwargs)
    if not hasattr(model, "_model_args"):  # timm before 1.0.31 does not keep what a model was built with
        object.__setattr__(model, "_model_args", kwargs)
    own: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if "architecture" not in own:  # a function of somebody's own in timm's registry need not leave a configuration
        object.__setattr__(model, "pretrained_cfg", {**_stored_cfg(name), **own})
    return model


def _stored_cfg(name: str) -> dict[str, Any]:
    """timm's configuration of an architecture that does not carry one: what its export says, or its name alone."""
    if not name.startswith(LOCAL):
        return {"architecture": name.partition(".")[0]}
    config = json.loads((Path(name.removeprefix(LOCAL)) / "config.json").read_text(encoding="utf-8"))
    return {**config["pretrained_cfg"], "architecture": config["architecture"]}


@contextmanager
def _explained(name: str, kwargs: dict[str, Any]) -> Iterator[None]:
    """What timm says of arguments it can't take, as an error a user can act on."""
    try:
        yield
    except TypeError as error:
        raise ConfigError(f"{name!r} does not take these arguments ({', '.join(sorted(kwargs))}): {error}") from None
    except (AssertionError, KeyError, ValueError) as error:
        raise ConfigError(f"{name!r} cannot be built: {error}") from None


def read_origin(folder: Path) -> Origin | None:
    """The origin of an exported backbone's first weights, as its config.json carries it; None if it says none."""
    origin = _about(folder).get("init")
    try:
        return Origin.from_json(origin) if origin else None
    except (ValueError, TypeError, AttributeError) as error:
        raise TrocarError(f"{folder / 'config.json'} cannot be understood: {error}") from None


def read_resampling(folder: Path) -> Resampling | None:
    """How an exported backbone's position table is to be resampled, as its config.json says; None if it says nothing.

    Raises TrocarError for a way that there isn't.
    """
    found = _about(folder).get(POSITIONS)
    if found not in (None, *get_args(Resampling)):
        known = ", ".join(get_args(Resampling))
        raise TrocarError(f"{folder / 'config.json'}: {POSITIONS}: {found!r} is none of {known}")
    return found


def _about(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("trocar") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrocarError(f"{folder / 'config.json'} cannot be understood: {error}") from None
