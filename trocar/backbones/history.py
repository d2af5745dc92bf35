"""What weights have seen, as `config.json` of a backbone records it. `trocar.leakage` knows it, and is handed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

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
