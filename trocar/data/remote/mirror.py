"""The catalog of remote shards, copied to this machine: it is a thousandth of what it describes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trocar.core.files import locked, user_cache
from trocar.data.remote.store import MissingError, RemoteStore
from trocar.errors import ConfigError, TrocarError

FOLDER, HEADER = "catalog", "catalog.json"


def mirrored(store: RemoteStore) -> Path:
    """A folder of this machine with the store's `catalog/`, fetched anew when its header has changed.

    Raises ConfigError where there is no catalog, TrocarError for one that can't be fetched or is no catalog.
    """
    header = _header(store)
    # By content, so that a process that has the old one open keeps it.
    key = hashlib.sha256(store.address.encode() + b"\0" + header).hexdigest()[:32]
    root = user_cache() / "catalogs" / key
    last = root / FOLDER / HEADER
    if last.is_file():
        return root
    last.parent.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):  # by one rank of those that start together
        for name in _files(store, header):
            fetch_once(store, f"{FOLDER}/{name}", root)
        fetch_once(store, f"{FOLDER}/{HEADER}", root)
    return root


def fetch_once(store: RemoteStore, name: str, root: Path) -> None:
    """Copy a file to the same place below `root`, if it is not there. Raises MissingError, TrocarError."""
    if not (root / name).is_file():
        store.fetch(name, root / name)


def _header(store: RemoteStore) -> bytes:
    name = f"{FOLDER}/{HEADER}"
    try:
        store.read(name, 0, 1)  # a server that knows no ranges is found here, where the file is small
        return store.whole(name)
    except MissingError:
        raise ConfigError(
            f"{store.address}: no catalog here; copy a whole shards folder there, `{FOLDER}/` with it"
        ) from None


def _files(store: RemoteStore, header: bytes) -> list[str]:
    try:
        names = list(json.loads(header)["files"])
    except (ValueError, KeyError, TypeError):
        raise TrocarError(
            f"{store.address}/{FOLDER}/{HEADER}: is no catalog; copy the shards folder there again"
        ) from None
    bad = [name for name in names if not isinstance(name, str) or "/" in name or name in ("", ".", "..")]
    if bad:
        raise TrocarError(f"{store.address}: the catalog names {bad[0]!r}, which is outside of it; refused")
    return names
