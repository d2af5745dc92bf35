"""Download published weights into the store, whole or not at all. Nothing else of Trocar uses the network.

timm's own weights, which it loads from a hub: which a configuration needs, and what to say where they are not.
"""

from __future__ import annotations

import datetime
import hashlib
import http.client
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled

from trocar.backbones.published.convert import convert
from trocar.backbones.published.family import BACKBONES, Published
from trocar.backbones.source import TIMM
from trocar.backbones.weights.weight_store import FetchedFile, read_record, root, verified, write_record
from trocar.backbones.weights.weights_file import read_checkpoint
from trocar.core.files import locked, replacing, sha256_of
from trocar.errors import ConfigError, TrocarError

TIMEOUT = 30
BLOCK = 1 << 20
Progress = Callable[[int, int | None], None]


def fetch(entry: Published, origin: str | None = None, progress: Progress = lambda done, total: None) -> FetchedFile:
    """Put the weights of `entry` into the store, from `origin` (an address or a file) or the published address.

    The file is checked key by key before it is kept, and its sha256 recorded: later loads compare. Weights that are
    there already are only verified. `progress` is told bytes done and in all. Raises ConfigError where no address is
    known or the file is another model's, TrocarError for a failed download.
    """
    origin = origin or entry.url
    if origin is None:
        raise ConfigError(
            f"{entry.name} has no direct address. {entry.note} Then: trocar fetch {entry.name} --from FILE"
        )
    folder = root() / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        known = read_record(entry.name)
        if known is not None:
            digest = verified(folder / known.file, entry, known)
            if "://" not in origin and sha256_of(_existing(origin)) != digest:
                raise ConfigError(f"{entry.name} has another file already, {known.file}; delete {folder} to replace it")
            return known
        target = folder / _file_name(origin)
        with replacing(target) as temporary:
            digest = _copy(origin, temporary, progress)
            if entry.sha256 is not None and digest != entry.sha256:
                raise TrocarError(f"{origin} has sha256 {digest}, the published file {entry.sha256}: not kept")
            convert(entry, read_checkpoint(temporary, ending=target.suffix), origin)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = FetchedFile(target.name, target.stat().st_size, digest, origin, now)
        write_record(entry.name, record)
    return record


def _file_name(origin: str) -> str:
    path = urllib.parse.urlsplit(origin).path if "://" in origin else origin
    return Path(urllib.parse.unquote(path)).name or "weights.pth"


def _existing(origin: str) -> Path:
    if not Path(origin).is_file():
        raise ConfigError(f"--from {origin}: no such file")
    return Path(origin)


def _copy(origin: str, target: Path, progress: Progress) -> str:
    """Copy address or file to `target`; returns its sha256."""
    if "://" not in origin:
        origin = _existing(origin).resolve().as_uri()
    elif not origin.startswith(("https://", "http://")):
        raise ConfigError(f"--from {origin}: expected a file, https:// or http://")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(origin, timeout=TIMEOUT) as source, target.open("wb") as file:
            length = source.headers.get("Content-Length")
            total = int(length) if length else None
            _check_space(target.parent, total)
            while block := source.read(BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, total)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise TrocarError(
            f"{origin}: {reason}. Nothing was kept; run it where there is a network, or give a copy with --from FILE"
        ) from None
    if total is not None and done != total:
        raise TrocarError(
            f"{origin}: the connection ended after {done:,} of {total:,} bytes; run the same command again"
        )
    return digest.hexdigest()


def _check_space(folder: Path, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise TrocarError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB free; set TROCAR_WEIGHTS"
        )


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
