"""What a name of weights stands for: which weights a configuration mentions, under which licence they are, what tells
them from others, and what to say where timm cannot fetch its own.

What weights a name stands for is told from their content and not from where they lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

from trocar.backbones.published.family import BACKBONES
from trocar.backbones.source import RANDOM, TIMM, WEIGHTS, BackboneSource, resolve
from trocar.backbones.weight_store import fetched_file, read_record
from trocar.core.files import sha256_of

UNKNOWN = "unknown; see the page of the weights"


def weights_in(tree: Any, tree_of: Callable[[str], Mapping[str, Any]], seen: Sequence[str] = ()) -> list[str]:
    """The names of published weights, timm's as `timm:NAME`, that any value of a configuration mentions.

    Overrides (`backbone.name=NAME`) and lists with labels (`LABEL=NAME,NAME`) count. What stands under `recipe` is a
    configuration itself, which `tree_of` reads.
    """
    if isinstance(tree, Mapping):
        found = [name for value in tree.values() for name in weights_in(value, tree_of, seen)]
        recipe = tree.get("recipe")
        if isinstance(recipe, str) and recipe not in seen:
            found += weights_in(tree_of(recipe), tree_of, (*seen, recipe))
    elif isinstance(tree, list | tuple):
        found = [name for value in tree for name in weights_in(value, tree_of, seen)]
    elif isinstance(tree, str):
        words = (word.strip().partition("#")[0] for word in re.split(r"[=,]", tree))
        found = [word for word in words if word.startswith(TIMM) or word in BACKBONES]
    else:
        found = []
    return list(dict.fromkeys(found))


def licence_of(name: str) -> str:
    """The licence of timm's weights `name` (no prefix), as timm knows it."""
    known = timm.get_pretrained_cfg(name)
    return (known.license if known is not None else None) or UNKNOWN


def why_not(name: str, error: Exception) -> str:
    """What to say when timm could not load its weights `name` (no prefix)."""
    known = timm.get_pretrained_cfg(name)
    fetch = f"trocar fetch {TIMM}{name}"
    if isinstance(error, GatedRepoError):
        page = known.hf_hub_id if known is not None else name
        return (
            f"the weights {name!r} are handed out to those who have accepted their licence ({licence_of(name)}): "
            f"accept it on the page of {page}, make a token of that account known (HF_TOKEN, or `hf auth login`), and "
            f"run {fetch}"
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled) and constants.HF_HUB_OFFLINE:
        return (
            f"the weights {name!r} are not in {constants.HF_HUB_CACHE}, and nothing is loaded from a network here "
            f"(HF_HUB_OFFLINE is set, as in every job). Where there is one, and on a file system that this machine "
            f"sees: {fetch}"
        )
    return f"timm could not get the weights of {name!r}: {error}. Where there is a network: {fetch}"


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
