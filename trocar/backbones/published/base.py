"""What is known of published weights: their family's key layout, their licence, and what they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from trocar.backbones.positions import Resampling
from trocar.backbones.preprocess import Preprocessing

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
    """Weights of one origin share a key layout. One file of this folder each."""

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
