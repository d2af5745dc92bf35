"""Whether what a finished stage left is still what it wrote: files are cut short or replaced behind a study's back."""

from __future__ import annotations

from pathlib import Path

from trocar.core.files import sha256_of
from trocar.errors import TrocarError
from trocar.study.run.stage_store import Store


def check_size(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is missing or of another size than it was made."""
    for file, size in ((store.done(name) or {}).get("sizes") or {}).items():
        path = store.out(name) / file
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise _damaged(store, name, path, "is missing" if found is None else f"has {found} of {size} bytes")


def check_content(store: Store, name: str) -> None:
    """Raises TrocarError if a result of a finished stage is not the very file that it wrote; reads all of it."""
    check_size(store, name)
    for file, digest in ((store.done(name) or {}).get("outputs") or {}).items():
        path = store.out(name) / file
        if sha256_of(path) != digest:
            raise _damaged(store, name, path, "is not the file that the stage wrote")


def _damaged(store: Store, name: str, path: Path, what: str) -> TrocarError:
    return TrocarError(f"{path} {what}; delete {store.folder(name)} and run the study again, which makes it anew")
