"""The networks a method is built from: timm backbones, alike in architecture and first weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import Field
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.backbones.positions import Resampling
from trocar.backbones.preprocess import Preprocessing, describe_backbone, feature_width
from trocar.backbones.source import RANDOM, resolve
from trocar.core.config import Config
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.blocks.packed_views import pack_views
from trocar.ssl.blocks.stochastic_depth import skip_dropped


class BackboneConfig(Config):
    """The network that is pretrained."""

    name: str = Field(
        description="a timm name, published weights, ARCH@FILE, or a run or exported backbone to start from"
    )
    fingerprint: str | None = Field(default=None, description="refuse other weights (`trocar inspect` prints it)")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth of the student")
    drop_path_mode: Literal["mask", "skip"] = Field(
        default="mask",
        description="mask: compute dropped samples and multiply them by 0 (timm); skip: leave them out of the "
        "computation, a fixed number per block (DINOv2; plain vision transformers)",
    )
    pack_views: bool = Field(
        default=False,
        description="the student takes views of all sizes in one pass, equal up to rounding (plain vision "
        "transformers; dino, dinov2, swav, augmented_distillation)",
    )
    mean: tuple[float, float, float] | None = Field(default=None, description="normalisation; default: the model's own")
    std: tuple[float, float, float] | None = None
    position_resampling: Resampling | None = Field(
        default=None,
        description="of a vision transformer's positions for views of other sizes: antialiased (timm) or dino, which "
        "isn't and has a scale of (n + .1) / N; default: as the code of the first weights does, antialiased for others",
    )


class Networks(ABC):
    """Where a method gets its backbones from. Each call gives a new one, with the same first weights."""

    seed: int

    @abstractmethod
    def student(self) -> nn.Module:
        """The backbone that trains, with its stochastic depth; pooled output [n, width]."""

    @abstractmethod
    def teacher(self) -> nn.Module:
        """The same without stochastic depth: a teacher that drops paths at random gives noisy targets."""

    def frozen(self, name: str, expect: str | None) -> nn.Module:
        """Another, finished backbone as a frozen teacher; `expect` is its fingerprint.

        Raises ConfigError for an unknown name or random weights, TrocarError for other weights.
        """
        try:
            if resolve(name).kind == "random" and not name.startswith(RANDOM):
                raise ConfigError(f"a plain name is random weights; write timm:{name} for timm's, or {RANDOM}{name}")
            return load_backbone(name, seed=self.seed, expect=expect)
        except TrocarError as error:
            raise type(error)(f"method.teacher: {error}") from None

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of the pooled features."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How the views are normalised, and the size of the first group."""


@dataclass(frozen=True)
class TimmNetworks(Networks):
    """Backbones of `load_backbone`, for views of `sizes` pixels (the first is the main one).

    Raises ConfigError for a backbone that doesn't take the views or can't checkpoint gradients.
    """

    config: BackboneConfig
    seed: int
    sizes: Sequence[int]
    grad_checkpointing: bool = False

    def check_weights(self) -> None:
        """Raises TrocarError for other weights than `backbone.fingerprint` pins."""
        if self.config.fingerprint is not None:
            # As they are, without the size of the views: position tables are resampled for it.
            load_backbone(self.config.name, seed=self.seed, expect=self.config.fingerprint)

    def student(self) -> nn.Module:
        model = self._load(self.config.drop_path)
        if self.config.drop_path_mode == "skip":
            skip_dropped(model)
        if self.config.pack_views:
            pack_views(model)
        if self.grad_checkpointing:
            try:
                model.set_grad_checkpointing()  # type: ignore[operator]
            except (AssertionError, AttributeError):
                raise ConfigError(
                    f"train.grad_checkpointing: {self.config.name} can't do that; set it to false"
                ) from None
        return model

    def teacher(self) -> nn.Module:
        return self._load(0.0)

    @property
    def width(self) -> int:
        return self._facts[0]

    @property
    def preprocessing(self) -> Preprocessing:
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[int, Preprocessing]:
        # Of a network that is let go at once: a large one would stay in memory through the run.
        plain = self._load(0.0)
        own = describe_backbone(plain)
        shape = Preprocessing(
            mean=self.config.mean or own.mean,
            std=self.config.std or own.std,
            size=(self.sizes[0], self.sizes[0]),
            interpolation=own.interpolation,
        )
        return feature_width(plain, self.config.name, self.sizes), shape

    def _load(self, drop_path: float) -> nn.Module:
        kwargs: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        if is_plain_vit(self.config.name):
            kwargs |= {"img_size": self.sizes[0], "dynamic_img_size": True}
        return load_backbone(self.config.name, seed=self.seed, positions=self.config.position_resampling, **kwargs)


def is_plain_vit(name: str) -> bool:
    """timm's vision transformers need to be told that views come in several sizes."""
    return resolve(name).architecture.startswith(("vit_", "deit"))
