"""What weights a name stands for, told from their content and not from where they lie."""

from __future__ import annotations

from typing import Any

from trocar.backbones.source import RANDOM, WEIGHTS, BackboneSource, resolve
from trocar.backbones.weights.weight_store import fetched_file, read_record
from trocar.core.files import sha256_of


def identity(name: str) -> dict[str, Any]:
    """JSON values that are equal for equal weights. Raises ConfigError for an unknown name, and for published weights
    that are not on this machine.
    """
    source = resolve(name)
    if source.kind == "folder":
        files = (source.folder / WEIGHTS, source.folder / "config.json")
        return {"kind": "folder", "sha256": [sha256_of(file) for file in files]}
    if source.kind == "published":
        return {"kind": "published", "name": source.name, "part": source.part, "sha256": _sha256(source)}
    if source.file is not None:
        return {"kind": "file", "name": source.name, "part": source.part, "sha256": sha256_of(source.file)}
    return {"kind": source.kind, "name": source.name}


def is_random(name: str) -> bool:
    """Whether the name stands for random weights."""
    return resolve(name).kind == "random"


def random_name(name: str) -> str:
    """The name of random weights of the same architecture."""
    source = resolve(name)
    return f"{RANDOM}{source.name if source.kind != 'folder' else source.architecture}".partition(".")[0]


def absolute(name: str) -> str:
    """The name with an absolute path, where it is one: stages run in other folders."""
    source = resolve(name)
    return source.text if source.kind == "folder" or source.file is not None else name


def _sha256(source: BackboneSource) -> str:
    if source.file is not None:
        return sha256_of(source.file)
    assert source.entry is not None
    record = read_record(source.entry.name)
    # What was recorded when it was fetched; loading compares the file with it.
    return record.sha256 if record is not None else fetched_file(source.entry)[1]
