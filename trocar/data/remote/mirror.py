"""The catalog of remote shards, copied to this machine: it is a thousandth of what it describes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trocar.core.files import user_cache
from trocar.data.remote.store import Store
from trocar.errors import ConfigError, TrocarError

FOLDER, HEADER = "catalog", "catalog.json"


def mirrored(store: Store) -> Path:
    """A folder of this machine with the store's `catalog/`, fetched anew when its header has changed.

    Raises ConfigError where there is no catalog, TrocarError for one that can't be fetched or is no catalog.
    """
    header = _header(store)
    # By content, so that a process that has the old one open keeps it.
    key = hashlib.sha256(store.address.encode() + b"\0" + header).hexdigest()[:32]
    root = user_cache() / "catalogs" / key
    last = root / FOLDER / HEADER
    if not last.is_file():
        for name in _files(store, header):
            store.fetch(f"{FOLDER}/{name}", root / FOLDER / name)
        store.fetch(f"{FOLDER}/{HEADER}", last)
    return root


def _header(store: Store) -> bytes:
    try:
        return store.whole(f"{FOLDER}/{HEADER}")
    except TrocarError as error:
        if "is missing" not in str(error):
            raise
        raise ConfigError(
            f"{store.shown}: no catalog here; copy a whole shards folder there, `{FOLDER}/` with it"
        ) from None


def _files(store: Store, header: bytes) -> list[str]:
    try:
        names = list(json.loads(header)["files"])
    except (ValueError, KeyError, TypeError):
        raise TrocarError(
            f"{store.shown}/{FOLDER}/{HEADER}: is no catalog; copy the shards folder there again"
        ) from None
    bad = [name for name in names if not isinstance(name, str) or "/" in name or name in ("", ".", "..")]
    if bad:
        raise TrocarError(f"{store.shown}: the catalog names {bad[0]!r}, which is outside of it; refused")
    return names
