"""The networks of a method whose backbone is a module of somebody's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn
from typing_extensions import override

from trocar.backbones import own_module
from trocar.backbones.preprocess import Preprocessing, describe_backbone, feature_width
from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import BackboneConfig, Networks


@dataclass(frozen=True)
class OwnNetworks(Networks):
    """Copies of `model`, whose forward makes features [n, D] of views [n, 3, S, S] of all `sizes`, in pixels.

    Raises ConfigError for settings of `config` that only timm's networks have, and for a module that does not give one
    row of features for each picture.
    """

    model: nn.Module
    config: BackboneConfig
    seed: int
    sizes: Sequence[int]
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        usual = BackboneConfig(name=self.config.name, mean=self.config.mean, std=self.config.std)
        names = [f"backbone.{name}" for name, value in self.config if value != getattr(usual, name)]
        if names or self.grad_checkpointing:
            names += ["train.grad_checkpointing"] if self.grad_checkpointing else []
            raise ConfigError(f"{', '.join(names)}: settings of timm's networks; a module of your own has its own")
        if not any(weight.requires_grad for weight in self.model.parameters()):
            raise ConfigError(f"{own_module.name_of(self.model)} has no weight that can be trained")

    def check_weights(self) -> None:
        """Nothing is pinned: its first weights stand in the identity of the run."""

    @override
    def student(self) -> nn.Module:
        return copy.deepcopy(self._adopted).train()

    @override
    def teacher(self) -> nn.Module:
        return copy.deepcopy(self._adopted).train()

    @property
    @override
    def width(self) -> int:
        return self._width

    @property
    @override
    def preprocessing(self) -> Preprocessing:
        return describe_backbone(self._adopted)

    @cached_property
    def _adopted(self) -> nn.Module:
        said = describe_backbone(self.model)
        size = (self.sizes[0], self.sizes[0])
        mean, std = self.config.mean or said.mean, self.config.std or said.std
        return own_module.adopt(self.model, Preprocessing(size, mean, std, said.interpolation))

    @cached_property
    def _width(self) -> int:
        return feature_width(copy.deepcopy(self._adopted), own_module.name_of(self.model), self.sizes)
