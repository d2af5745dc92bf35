"""What a weight file is: which published weights it fits, found from names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trocar.backbones.published import entries
from trocar.backbones.published.base import Published
from trocar.backbones.published.convert import Converted, convert, describe_nesting
from trocar.backbones.weights.checkpoint_file import read_checkpoint
from trocar.errors import ConfigError, TrocarError


@dataclass(frozen=True)
class WeightMatch:
    """An entry whose every tensor a file has, and how it was found there."""

    entry: Published
    converted: Converted


def matches(raw: Mapping[str, Any], part: str = "") -> list[WeightMatch]:
    """All published entries that `raw` fits, key by key and shape by shape; `raw` may be without data."""
    found, failed = [], set()
    for entry in entries().values():
        # Entries of one family and architecture differ in nothing that a file's names and shapes could tell.
        twin = (entry.family.name, entry.architecture, str(entry.arguments))
        if twin in failed:
            continue
        try:
            found.append(WeightMatch(entry, convert(entry, raw, "the file", part)))
        except TrocarError:
            failed.add(twin)
    return found


def only_match(path: Path, part: str = "") -> Published:
    """The one entry a file fits. Raises TrocarError if there is none, ConfigError with the choice if there are more."""
    raw = read_checkpoint(path, data=False)
    found = matches(raw, part)
    if not found:
        raise TrocarError(
            f"{path} fits none of the published backbones. {describe_nesting(raw)} For weights of your own name their "
            f"timm architecture, such as resnet50@{path}; `trocar inspect {path}` says more, and NAME@{path} why NAME "
            "does not fit"
        )
    if len(found) > 1:
        names = [match.entry.name for match in found]
        raise ConfigError(
            f"{path} fits {', '.join(names)}: equal names and shapes, but not equal data and preprocessing. "
            f"Say which it is: {names[0]}@{path}, or, if they are weights of your own, their architecture: "
            f"{found[0].entry.architecture}@{path}"
        )
    return found[0].entry
