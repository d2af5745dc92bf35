"""What is known of published weights: their family's key layout, their licence, and what they were trained on.

Key maps that several families share, as functions from timm's key to the published one.

Key maps of vision transformers as DINO, MAE, MoCo v3, DINOv2 and DINOv3 store them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from trocar.backbones.preprocess import Preprocessing, Resampling
from trocar.core.registry import Registry

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """One data set that weights were trained on, for the leak guard."""

    dataset: str
    """Slug, such as `cholec80`."""
    cases: str = "all"
    """`all`, a list such as `1-40`, or in words what is known (`76 of 80, which is not published`)."""
    labels: bool = False
    """Whether its labels were used, not only its frames."""
    note: str = ""


@dataclass(frozen=True)
class Source:
    """Where a tensor of the timm model comes from: published keys, and how their tensors become it."""

    keys: tuple[str, ...]
    make: Callable[..., Tensor] = lambda tensor: tensor


class UnfitError(ValueError):
    """Raised by `Source.make` for tensors whose values belong to another architecture; the message says why."""


@dataclass(frozen=True)
class Unused:
    """Published keys that a backbone has no use for: a regular expression that must match whole keys, and why."""

    pattern: str
    why: str


@dataclass(frozen=True)
class FileLayout:
    """A place in a file where weights lie: `path` through nested dictionaries, then `prefix` before every key."""

    path: tuple[str, ...] = ()
    prefix: str = ""
    part: Literal["teacher", "student", ""] = ""

    def __str__(self) -> str:
        return " / ".join([*self.path, *([f"{self.prefix}*"] if self.prefix else [])]) or "the top level"


@dataclass(frozen=True)
class Family:
    """Weights of one origin share a key layout."""

    name: str
    title: str
    licence: str
    """SPDX identifier of the weights' licence, or `unknown` where none is stated."""
    homepage: str
    citation: str
    source: Callable[[str], Source]
    """timm's key -> where its tensor comes from in the published file."""
    layouts: tuple[FileLayout, ...] = (FileLayout(),)
    """Tried in order; the first whose place exists is taken."""
    unused: tuple[Unused, ...] = ()
    absent: tuple[str, ...] = ()
    """Regular expressions of timm keys that no file of this family has, because they are computed."""
    canonical: Callable[[str], str] = lambda key: key
    """Published key as found (without prefixes) -> as `source` names it."""
    positions: Resampling = "antialiased"
    """Their position table is resampled as in DINO where their own code does so, else as in timm."""


@dataclass(frozen=True)
class Published:
    """One published weight file."""

    name: str
    family: Family
    architecture: str
    """timm name of the architecture, or one of `trocar.backbones.architectures`."""
    method: str
    seen: tuple[Seen, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """timm arguments (JSON values) beyond the architecture's own."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    url: str | None = None
    """Direct download; None where the owners ask for a form or a browser."""
    sha256: str | None = None
    """Of the file, where known. Else it is recorded when the file is first fetched."""
    fits: Callable[[State], dict[str, Any]] = lambda state: {}
    """Further timm arguments that only the file can tell, such as the size of its position table."""
    note: str = ""


BACKBONES: Registry[Published] = Registry(
    "backbones",
    "published backbone",
    plural="published backbones",
    package="trocar.backbones.published",
    accepts=lambda thing: isinstance(thing, Published),
    expected="a Published",
)
"""Every published weight file by name, of all families."""


def same(key: str) -> Source:
    """timm's own names."""
    return Source((key,))


def renamed(key: str, *rules: tuple[str, str]) -> str:
    """`key` after every (regular expression, replacement) of `rules`, in order."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def image_size(state: State, patch: int, prefix_tokens: int = 1) -> dict[str, Any]:
    """{"img_size": S} for a square position table `pos_embed` [1, prefix_tokens + n, D]; {} without one."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        return {}
    side = math.isqrt(max(0, table.shape[1] - prefix_tokens))
    return {"img_size": side * patch} if side * side == table.shape[1] - prefix_tokens and side else {}


def without_class_position(table: Tensor) -> Tensor:
    """The position table [1, 1 + n, D] without the class token's entry."""
    return table[:, 1:]


def with_class_position(token: Tensor, table: Tensor) -> Tensor:
    """The class token [1, 1, D] plus its entry of the position table, which timm stores as one.

    Raises RuntimeError for shapes that only broadcasting would bring together.
    """
    if token.shape != table[:, :1].shape:
        raise RuntimeError(f"class token {list(token.shape)} beside a position table {list(table.shape)}")
    return token + table[:, :1]


def swiglu(key: str) -> Source:
    """timm key -> that of DINOv2's ViT-g, whose gated feed-forward layers have other names."""
    return Source((renamed(key, (r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3.")),))


def with_registers(key: str) -> Source:
    """DINOv2 with register tokens: timm adds the class token's position to the token and keeps no entry for it."""
    special = {
        "cls_token": Source(("cls_token", "pos_embed"), with_class_position),
        "pos_embed": Source(("pos_embed",), without_class_position),
        "reg_token": Source(("register_tokens",)),
    }
    return special.get(key) or Source((key,))


def dinov3(key: str) -> Source:
    """timm's Eva keys -> DINOv3's."""
    return Source((renamed(key, (r"\.gamma_(\d)$", r".ls\1.gamma"), (r"^reg_token$", "storage_tokens")),))


def dinov3_without_bias(key: str) -> Source:
    """timm's Eva keys without a bias of queries and values -> those of Meta's files, which store one and its mask."""
    if not key.endswith(".attn.qkv.weight"):
        return dinov3(key)
    bias = key.removesuffix("weight") + "bias"
    return Source((key, bias, f"{bias}_mask"), _without_bias)


def _without_bias(weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """The matrix of queries, keys and values [3 D, D], given that its bias times the mask, both [3 D], is nothing.

    The mask is 0 for the keys, whose bias may then be anything. Raises UnfitError for a bias that is in effect.
    """
    if bias.shape != weight.shape[:1] or mask.shape != bias.shape:
        raise RuntimeError(f"bias {list(bias.shape)} and mask {list(mask.shape)} beside {list(weight.shape)}")
    if not bias.is_meta and bool((bias[mask != 0] != 0).any()):
        raise UnfitError("its bias is not zero where its mask lets it act; the published distilled networks have none")
    return weight


def unchunked(key: str) -> str:
    """`blocks.2.7.norm1` -> `blocks.7.norm1`: training checkpoints of DINOv2 keep blocks in chunks."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
