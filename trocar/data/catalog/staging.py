"""Shards on the machine's own disk: the ones a selection reads are copied there before training begins.

For clusters whose file system is slow at many small reads from many jobs. What doesn't fit, or can't be written, is
read where it was: the batches are the same either way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from trocar.core.files import replacing
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.selection import Selection
from trocar.errors import ConfigError

SPARE = 1 << 30
"""Bytes that stay free on the target: other jobs of the machine write there as well."""

AT_ONCE = 8
"""Shards that are copied at the same time: a network file system gives one reader a part of what it has."""


def place(stage_to: str, catalog: Catalog) -> Path:
    """The folder below `stage_to` for this catalog; $VARIABLES are those of the running job.

    Raises ConfigError for a variable that isn't set here.
    """
    expanded = os.path.expandvars(stage_to)
    if "$" in expanded or not expanded:
        raise ConfigError(f"data.stage_to = {stage_to!r}: not set on this machine; name a folder of its own disk")
    return Path(expanded).expanduser() / f"trocar-shards-{catalog.fingerprint[:16]}"


def copy(catalog: Catalog, selection: Selection, target: Path, say: Say, spare: int = SPARE) -> None:
    """Copy the shards that `selection` reads and `target` lacks; says so and copies none where they don't fit.

    Several at a time; a copy has its name when it is whole. What is there already, from an earlier life of the job, is
    kept.
    """
    missing = [shard for shard in shards_of(catalog, selection) if not _is_whole(catalog, shard, target)]
    need = sum(catalog.shard_paths[shard].stat().st_size for shard in missing)
    try:
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
        if need > free - spare:
            say(f"not staged: {need >> 20} MiB of shards, {free >> 20} MiB free in {target}; reading them in place")
            return
        if missing:
            say(f"staging {len(missing)} shards, {need >> 20} MiB, to {target}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            copies = [pool.submit(_copy_one, catalog, shard, target) for shard in missing]
            try:
                for done in copies:
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # those that have begun end with their file
                raise
    except OSError as error:
        say(f"not staged: {error.filename or target}: {error.strerror or error}; reading shards in place")
        return
    say(f"staged {len(missing)} shards, {need >> 20} MiB, to {target}")


def present(catalog: Catalog, target: Path) -> dict[int, Path]:
    """Shard number -> its whole copy in `target`."""
    numbers = range(len(catalog.shard_paths))
    return {n: _copy_of(catalog, n, target) for n in numbers if _is_whole(catalog, n, target)}


def shards_of(catalog: Catalog, selection: Selection) -> Iterator[int]:
    """Numbers of the shards that hold frames of the selection, ascending."""
    step = 1 << 20
    shards = np.zeros(len(catalog.shard_paths), bool)
    for pool in selection.pools:
        for start in range(0, len(pool.runs), step):
            index = np.arange(start, min(start + step, len(pool.runs)), dtype=np.int64)
            shards[catalog.frames["shard"][pool.runs.rows(index)]] = True
    return iter(np.flatnonzero(shards).tolist())


def _copy_of(catalog: Catalog, shard: int, target: Path) -> Path:
    return target / catalog.shard_paths[shard].name


def _copy_one(catalog: Catalog, shard: int, target: Path) -> None:
    with replacing(_copy_of(catalog, shard, target)) as temporary:
        shutil.copyfile(catalog.shard_paths[shard], temporary)


def _is_whole(catalog: Catalog, shard: int, target: Path) -> bool:
    path = _copy_of(catalog, shard, target)
    return path.is_file() and path.stat().st_size == catalog.shard_paths[shard].stat().st_size
