"""Published weights -> timm model, built by timm itself, so that its own arguments do what they always do.

Load published weights from the store or from a file of the user's own.

Published names in timm's registry: `timm.create_model("surgenetxl_caformer_s18", ...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

from trocar.backbones import weight_store
from trocar.backbones.identify import fingerprint
from trocar.backbones.preprocess import Resampling, set_resampling
from trocar.backbones.published.convert import Converted, convert
from trocar.backbones.published.family import BACKBONES, Published
from trocar.backbones.source import Origin, set_origin
from trocar.backbones.weights_file import read_checkpoint
from trocar.errors import ConfigError


def build(
    entry: Published, converted: Converted | None, positions: Resampling | None = None, **kwargs: Any
) -> nn.Module:
    """A timm model with the given weights, or random ones. `kwargs` are timm's: num_classes, img_size, in_chans,
    features_only, ...; timm adapts the first layer as it does for its own weights. Position tables are resampled as the
    family says, or `positions`.
    """
    cfg = pretrained_cfg(entry)
    if converted is not None:
        cfg["state_dict"] = dict(converted.state)
    arguments = {**entry.arguments, **(converted.arguments if converted else {}), **kwargs}
    how, size = positions or entry.family.positions, None
    if how == "dino" and converted is not None:
        # At the file's size first: timm would resample its table in its own way.
        size = kwargs.get("img_size")
        arguments |= {"img_size": converted.arguments.get("img_size", entry.arguments.get("img_size"))}
        arguments = {key: value for key, value in arguments.items() if key != "img_size" or value is not None}
    model = timm.create_model(entry.architecture, pretrained=converted is not None, pretrained_cfg=cfg, **arguments)
    transformer: Any = getattr(model, "model", model) if kwargs.get("features_only") else model
    set_resampling(transformer, how)
    if size is not None:
        transformer.set_input_size(img_size=(size, size) if isinstance(size, int) else tuple(size))
    for holder in (model, getattr(model, "model", None)):
        # timm keeps the configuration, and with it a second copy of all weights.
        for name in ("pretrained_cfg", "default_cfg"):
            if isinstance(getattr(holder, name, None), dict):
                getattr(holder, name)["state_dict"] = None
    return model


def pretrained_cfg(entry: Published) -> dict[str, Any]:
    """timm's configuration of these weights; the architecture's own says where classifier and first layer are."""
    own = timm.get_pretrained_cfg(entry.architecture)
    base: dict[str, Any] = asdict(own) if own is not None else {}
    shape = entry.preprocessing
    where = ("classifier", "first_conv", "fixed_input_size", "pool_size")
    kept: dict[str, Any] = {key: base[key] for key in where if key in base}
    return {
        **kept,
        "architecture": entry.architecture,
        "mean": shape.mean,
        "std": shape.std,
        "interpolation": shape.interpolation,
        "crop_pct": 1.0,
        "input_size": (3, *shape.size),
        "num_classes": 0,
        "license": entry.family.licence.lower(),
        "origin_url": entry.family.homepage,
    }


class PublishedKeys:
    """A hook of `load_state_dict`: takes a file in the published layout, as `timm.create_model(checkpoint_path=)` does.

    A state with the model's own keys and shapes passes unchanged. Anything else must be the published file, complete,
    and becomes what `build` makes of it with the arguments this model was built with.
    """

    def __init__(self, name: str, kwargs: Mapping[str, Any]) -> None:
        self.name, self.kwargs = name, dict(kwargs)

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = module.state_dict()
        if prefix or all(key in own and own[key].shape == value.shape for key, value in state_dict.items()):
            return
        entry = BACKBONES.get(self.name)
        converted = convert(entry, state_dict, "the checkpoint")
        twin = build(entry, converted, **self.kwargs).state_dict()
        # A classifier of the file's user is in neither: the twin's is random, and so is this model's.
        merged = {key: value if is_classifier(module, key) else twin[key] for key, value in own.items()}
        state_dict.clear()
        state_dict.update(merged)
        set_origin(module, Origin.of(entry))


def is_classifier(model: nn.Module, key: str) -> bool:
    """Whether `key` is weight or bias of the classifier that timm names in the model's configuration."""
    names = dict(getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return any(key in (f"{name}.weight", f"{name}.bias") for name in names)


def load_fetched(entry: Published, part: str = "", **kwargs: Any) -> nn.Module:
    """From the store, its sha256 compared with the recorded one; `kwargs` are timm's."""
    path, digest = weight_store.fetched_file(entry)
    return _load(entry, path, digest, part, kwargs)


def load_from_file(entry: Published, path: Path, part: str = "", **kwargs: Any) -> nn.Module:
    """From the user's own copy, compared with the published sha256 where that is known."""
    return _load(entry, path, weight_store.verified(path, entry), part, kwargs)


def _load(entry: Published, path: Path, digest: str, part: str, kwargs: dict[str, Any]) -> nn.Module:
    converted = convert(entry, read_checkpoint(path), str(path), part)
    model = build(entry, converted, **kwargs)
    plain = not kwargs.get("features_only") and not kwargs.get("num_classes")
    set_origin(model, Origin.of(entry, digest, str(fingerprint(model)) if plain else None))
    return model


__all__: list[str] = []  # filled by timm
default_cfgs: Any = {}


def make_known_to_timm(entry: Published) -> None:
    """Give timm the name of published weights. Raises ConfigError for a name that timm has for a model of its own."""
    if timm.is_model(entry.name) and timm.model_entrypoint(entry.name).__module__ != __name__:
        raise ConfigError(f"published weights {entry.name!r}: timm has a model of that name; give them another")
    cfg = {**pretrained_cfg(entry), "architecture": entry.name}
    default_cfgs.update(generate_default_cfgs({entry.name: cfg}))
    register_model(_entrypoint(entry))


def _entrypoint(entry: Published) -> Any:
    def create(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **kwargs: Any,
    ) -> nn.Module:
        # timm's options for where weights come from do not apply: `pretrained` means the fetched file.
        model = load_fetched(entry, **kwargs) if pretrained else build(entry, None, **kwargs)
        model.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            PublishedKeys(entry.name, kwargs)
        )
        return model

    create.__name__ = create.__qualname__ = entry.name
    create.__doc__ = f"{entry.family.title} ({entry.family.citation})"
    setattr(sys.modules[__name__], entry.name, create)
    return create


BACKBONES.on_register(make_known_to_timm)
