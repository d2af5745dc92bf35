"""Projection heads between a backbone and a loss, from lightly's blocks; networks around a module of somebody's own."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import DINOProjectionHead, ProjectionHead
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.backbones import own_module
from trocar.backbones.preprocess import Preprocessing, describe_backbone, feature_width
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import BackboneConfig, Networks
from trocar.ssl.run.auto_values import Auto, known


class DinoHead(Config):
    """The projection head: input -> hidden -> hidden -> bottleneck -> normalise -> K prototypes."""

    prototypes: Annotated[int, Field(ge=2)] | Auto = Field(
        default=65536, description="K, the number of outputs; auto: what suits the data"
    )
    hidden: int = Field(default=2048, ge=1, description="width of the two hidden layers")
    bottleneck: int = Field(default=256, ge=1, description="width before the prototypes")
    batch_norm: bool = Field(default=False, description="batch norms in the hidden layers")
    norm_last_layer: bool = Field(default=True, description="keep the prototypes at unit length")

    def build(self, features: int) -> nn.Module:
        """[n, features] -> [n, K]; its `last_layer` holds the prototypes."""
        with warnings.catch_warnings():
            # lightly still uses torch's older spelling of weight normalisation.
            warnings.filterwarnings("ignore", ".*weight_norm.*deprecated", FutureWarning)
            head: nn.Module = DINOProjectionHead(
                input_dim=features,
                hidden_dim=self.hidden,
                bottleneck_dim=self.bottleneck,
                output_dim=known(self.prototypes),
                batch_norm=self.batch_norm,
                norm_last_layer=self.norm_last_layer,
            )
        return head


class MlpHead(Config):
    """A perceptron: hidden layers with ReLU, then layers without.

    `layers` of `[2048, 128]` are MoCo v2's and SimCLR's; VISSL's SwAV head is `[2048, 256]`, which SelfSupSurg prolongs
    by a third layer.
    """

    layers: tuple[int, ...] = Field(
        default=(2048, 128), min_length=1, description="output widths of the layers; the last is the embedding's"
    )
    relu: int = Field(default=1, ge=0, description="how many of the first layers end in a ReLU")
    batch_norm: bool = Field(default=False, description="in the layers with a ReLU")
    last_batch_norm: bool = Field(default=False, description="behind the last layer, without scale and shift")

    def build(self, features: int) -> nn.Module:
        """[n, features] -> [n, layers[-1]]."""
        return mlp(features, self.layers, self.relu, self.batch_norm, self.last_batch_norm)


def mlp(features: int, layers: Sequence[int], relu: int, batch_norm: bool, last_batch_norm: bool) -> nn.Module:
    """`MlpHead`'s network, for whoever chooses its widths."""
    blocks: list[tuple[int, int, nn.Module | None, nn.Module | None]] = []
    for index, (width_in, width_out) in enumerate(zip((features, *layers[:-1]), layers, strict=True)):
        norm: nn.Module | None = nn.BatchNorm1d(width_out) if batch_norm and index < relu else None
        if last_batch_norm and index == len(layers) - 1:
            norm = nn.BatchNorm1d(width_out, affine=False)
        blocks.append((width_in, width_out, norm, nn.ReLU() if index < relu else None))
    head: nn.Module = ProjectionHead(blocks)
    return head


def unit(x: Tensor) -> Tensor:
    """[..., D] at unit length, in float32 whatever autocast says."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.float(), dim=-1)


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
