"""The catalog of remote shards, copied to this machine: it is a thousandth of what it describes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from trocar.core.files import locked, user_cache, write_atomic
from trocar.data.remote.store import MissingError, RemoteStore
from trocar.errors import ConfigError, TrocarError

FOLDER, HEADER = "catalog", "catalog.json"


ATTEMPTS, WAIT_S = 5, 1.0
"""How often a catalog is fetched that changes meanwhile, and seconds between two attempts."""


def mirrored(store: RemoteStore) -> Path:
    """A folder of this machine with the store's `catalog/`, fetched anew when one of its files has changed.

    Only the user can read it. Raises ConfigError where there is no catalog, TrocarError for one that can't be fetched
    or kept, that is no catalog, or whose files do not belong together.
    """
    for attempt in range(ATTEMPTS):
        header = _header(store)
        sizes = _sizes(store, header)
        # By content, so that a process that has the old one open keeps it.
        key = _key(store, header, sizes)
        root = _folder_of(store.address) / key
        last = root / FOLDER / HEADER
        if last.is_file():
            return root
        try:
            (root / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
            _folder_of(store.address).parent.chmod(0o700)
            with locked(root / ".lock"):  # by one rank of those that start together
                for name, size in sizes.items():
                    path = root / FOLDER / name
                    if not path.is_file() or path.stat().st_size != size:
                        store.fetch(f"{FOLDER}/{name}", path)
                whole = all((root / FOLDER / name).stat().st_size == size for name, size in sizes.items())
                if whole and _key(store, _header(store), sizes) == key:
                    write_atomic(last, header)
                    return root
                shutil.rmtree(root / FOLDER)
        except OSError as error:
            raise TrocarError(
                f"{error.filename or root}: {error.strerror or error}; the catalog of {store.address} is copied there, "
                f"and XDG_CACHE_HOME names another folder"
            ) from None
        if attempt < ATTEMPTS - 1:
            time.sleep(WAIT_S)
    raise TrocarError(
        f"{store.address}/{FOLDER}: its files do not belong together; they are being replaced, or were copied in part"
    )


def is_known(address: str) -> bool:
    """Whether a catalog has been opened there from this machine: what only a record names is not asked for anything."""
    try:
        return _folder_of(RemoteStore(address).address).is_dir()
    except ConfigError:  # an address that nobody could have opened
        return False


def _key(store: RemoteStore, header: bytes, names: Iterable[str]) -> str:
    return _digest(header, *(f"{name} {store.version(f'{FOLDER}/{name}')}".encode() for name in names))


def _folder_of(address: str) -> Path:
    return user_cache() / "catalogs" / _digest(address.encode())


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _header(store: RemoteStore) -> bytes:
    name = f"{FOLDER}/{HEADER}"
    try:
        store.read(name, 0, 1)  # a server that knows no ranges is found here, where the file is small
        return store.whole(name)
    except MissingError as error:
        raise ConfigError(f"{error}: a whole shards folder is read from there, `{FOLDER}/` with it") from None


def _sizes(store: RemoteStore, header: bytes) -> dict[str, int]:
    try:
        sizes = {name: int(size) for name, size in json.loads(header)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        place = f"{store.address}/{FOLDER}/{HEADER}"
        raise TrocarError(f"{place}: is no catalog; copy the shards folder there again") from None
    bad = [name for name in sizes if "/" in name or name in ("", ".", "..", HEADER)]
    if bad:
        raise TrocarError(f"{store.address}: the catalog names {bad[0]!r}, which is outside of it; refused")
    return sizes
