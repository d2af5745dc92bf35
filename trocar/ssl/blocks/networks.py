"""The networks a method is built from: timm backbones, alike in architecture and first weights.

`torch.compile` of a backbone, block by block.

A transformer or a convolutional network is a chain of like blocks. Compiled one by one, they serve every way through
the network (also those past its `forward`, such as `forward_features`), equal blocks share a graph for each size of
view, and compiling takes a fraction of what the whole network's graph does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from typing_extensions import override

from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Preprocessing, Resampling, describe_backbone, feature_width
from trocar.backbones.source import RANDOM, resolve
from trocar.core.config import Config
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.blocks.transformer_blocks import pack_views, skip_dropped


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
    mean: tuple[float, float, float] | None = Field(
        default=None, description="normalisation of red, green and blue: what is subtracted; null: the model's own"
    )
    std: tuple[float, float, float] | None = Field(
        default=None, description="normalisation of red, green and blue: what is divided by; null: the model's own"
    )
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

    @override
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

    @override
    def teacher(self) -> nn.Module:
        return self._load(0.0)

    @property
    @override
    def width(self) -> int:
        return self._facts[0]

    @property
    @override
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


Backend = str | Callable[..., Any]

INDUCTOR: Backend = "inductor"
GRAPHS = 4096
"""Of one block's code. A network of 36 blocks, each with a rate of stochastic depth of its own, has a hundred."""


def compile_backbone(network: nn.Module, backend: Backend | None = None) -> list[nn.Module]:
    """Compile the blocks of a network in place, or the network as a whole where there are none; returns what it did.

    Keys of the state and hooks stay as they are. Compiling itself happens in the first pass of each size of view.
    """
    # Past the default of 8 graphs torch would go on uncompiled, with a line in its log.
    torch._dynamo.config.recompile_limit = GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 4 * GRAPHS
    # DistributedDataParallel overlaps block by block as it is; its optimizer would cut the graphs of large blocks.
    torch._dynamo.config.optimize_ddp = False
    parts = repeated_blocks(network) or [network]
    for part in parts:
        # Shapes marked dynamic fail on the second size of view with channels last; each size gets its graph.
        part.compile(dynamic=False, backend=INDUCTOR if backend is None else backend)
    return parts


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that a network repeats, in order: a vision transformer's, those of ConvNeXt's stages, of ResNet's
    layers. Empty for a network that repeats none.

    A block stands in a `Sequential` or `ModuleList`, has at least two weights of more than one dimension, and holds no
    smaller block. At least one class of them has to occur twice.
    """
    lists = [module for module in network.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    found = list(dict.fromkeys(child for parent in lists for child in parent if _is_block(child)))
    known = set(found)
    smallest = [block for block in found if known.isdisjoint(inner for inner in block.modules() if inner is not block)]
    return smallest if max(Counter(map(type, smallest)).values(), default=0) > 1 else []


@contextmanager
def eagerly(network: nn.Module) -> Iterator[None]:
    """Within, what was compiled in `network` runs as it was written: no graph for a shape that is rare."""
    held = {m: m._compiled_call_impl for m in network.modules() if m._compiled_call_impl is not None}
    for module in held:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, compiled in held.items():
            module._compiled_call_impl = compiled


def _is_block(module: nn.Module) -> bool:
    own = not type(module).__module__.startswith("torch.nn.")
    return own and sum(weight.dim() > 1 for weight in module.parameters()) > 1
