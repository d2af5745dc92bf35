"""Published names in timm's registry: `timm.create_model("surgenetxl_caformer_s18", ...)`."""

from __future__ import annotations

import sys
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from trocar.backbones.published import entries
from trocar.backbones.published.base import Published
from trocar.backbones.published.build import PublishedKeys, build, pretrained_cfg
from trocar.backbones.published.load import load_fetched

__all__: list[str] = []  # filled by timm
default_cfgs: Any = {}


def register_all() -> None:
    """Make every published name known to timm, once."""
    if __all__:
        return
    default_cfgs.update(
        generate_default_cfgs(
            {name: {**pretrained_cfg(entry), "architecture": name} for name, entry in entries().items()}
        )
    )
    for entry in entries().values():
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
