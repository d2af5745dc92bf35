"""Where a model's weights come from, carried along by everything that is trained from them, and what they have seen.

The latter is what `config.json` of a backbone records; `trocar.leakage` knows it, and is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from trocar.backbones.published.family import Published, Seen

ATTRIBUTE = "trocar_origin"


@dataclass(frozen=True)
class Origin:
    """Provenance of published weights, or of a run, as JSON values. `seen` is for the leak guard."""

    name: str
    licence: str = "unknown"
    sha256: str | None = None
    citation: str = ""
    homepage: str = ""
    fingerprint: str | None = None
    seen: tuple[Seen, ...] = field(default=())

    @classmethod
    def of(cls, entry: Published, sha256: str | None = None, fingerprint: str | None = None) -> Origin:
        """That of a published entry."""
        family = entry.family
        return cls(entry.name, family.licence, sha256, family.citation, family.homepage, fingerprint, entry.seen)

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_json` is the inverse."""
        return asdict(self) | {"seen": [asdict(seen) for seen in self.seen]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Origin:
        """From what `as_json` gave. Raises TypeError for anything else."""
        return cls(**{**tree, "seen": tuple(Seen(**seen) for seen in tree.get("seen", ()))})


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Note where the weights of `model` come from."""
    object.__setattr__(model, ATTRIBUTE, origin)


def origin_of(model: nn.Module) -> Origin | None:
    """Where the weights of `model` come from; None for random ones, timm's own, or an unknown past."""
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, Origin) else None


KEY = "exposure"
"""Under `trocar` in the `config.json` of a backbone: the parts of its history, for a `WeightHistory` to read."""
WEIGHTS_KEY = "weights_sha256"
"""Of the `model.safetensors` that the record beside it is about."""
Record = list[dict[str, Any]]
"""One JSON object for each training that left its mark on the weights."""


class WeightHistory(Protocol):
    """Who knows what weights have seen; `trocar.leakage.weight_history` does."""

    def recorded(self, name_or_path: str | Path) -> Record:
        """The history of weights by name, as for `load_backbone`; raises what `trocar.leakage.exposure` raises."""
        ...

    def sealed(self, record: Iterable[Mapping[str, Any]]) -> Record:
        """The same for publication: names of cases that are not public become hashes."""
        ...

    def section(self, about: Mapping[str, Any]) -> str:
        """The section of a model card, in Markdown, on what the weights have seen; `about` is the whole of `trocar`."""
        ...
