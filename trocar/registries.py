"""What people register their own things with: `from trocar import register_method` takes it from here.

Each is the `register` of one registry: a decorator for a class, and a function for any other object; a second argument
names what has no name of its own, such as a function. docs/plugins.md has an example of each.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.core.registry import Registry

PLACES = {
    "method": "trocar.ssl.engine.method:METHODS",
    "protocol": "trocar.downstream.protocols.base:PROTOCOLS",
    "head": "trocar.downstream.temporal.head:HEADS",
    "task": "trocar.downstream.tasks.base:TASKS",
    "metric": "trocar.downstream.tasks.base:METRICS",
    "dataset": "trocar.downstream.datasets.base:DATASETS",
    "backbone": "trocar.backbones.published.family:BACKBONES",
    "decoder": "trocar.downstream.segmentation.segmenter:DECODERS",
    "baseline": "trocar.downstream.evaluation.contenders:BASELINES",
}
"""Where the registry of each kind is."""


def registry_of(noun: str) -> Registry[Any]:
    """The registry of one of `PLACES`. Raises KeyError for another word."""
    module, _, name = PLACES[noun].partition(":")
    registry: Registry[Any] = getattr(importlib.import_module(module), name)
    return registry


def __getattr__(name: str) -> Any:
    # Lazily: most rooms import torch, and a plugin needs one or two of them.
    noun = name.removeprefix("register_")
    if name == noun or noun not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return registry_of(noun).register


if TYPE_CHECKING:
    from trocar.backbones.published.family import BACKBONES
    from trocar.downstream.datasets.base import DATASETS
    from trocar.downstream.evaluation.contenders import BASELINES
    from trocar.downstream.protocols.base import PROTOCOLS
    from trocar.downstream.segmentation.segmenter import DECODERS
    from trocar.downstream.tasks.base import METRICS, TASKS
    from trocar.downstream.temporal.head import HEADS
    from trocar.ssl.engine.method import METHODS

    register_method = METHODS.register
    register_protocol = PROTOCOLS.register
    register_head = HEADS.register
    register_task = TASKS.register
    register_metric = METRICS.register
    register_dataset = DATASETS.register
    register_backbone = BACKBONES.register
    register_decoder = DECODERS.register
    register_baseline = BASELINES.register
