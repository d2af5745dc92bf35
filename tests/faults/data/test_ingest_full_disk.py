"""A disk that fills up during an ingest: it says where, nothing half-written counts, with room the command ends."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_record import Injector
from ingest_process import start, tree, whole
from small_disk import PAGE, SAYS, pages, small_disk

from trocar.data.catalog.catalog import Catalog
from trocar.errors import ConfigError

PROMISE = (
    "says which folder, keeps what is finished; with room the same command ends in the bytes of an undisturbed run"
)


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_fills_up_while_shards_are_written(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    shards = pages({name: data for name, data in undisturbed.items() if name.startswith("shards/")})
    size, limit = rng.randrange(8 * PAGE, shards, PAGE), rng.randrange(1, max(map(len, undisturbed.values())))
    with (
        small_disk(tmp_path / "disk", size, limit) as disk,
        inject("full disk", "ingest, shards", PROMISE, seed=seed, at=f"{size} bytes") as injection,
    ):
        fails(clips, disk.folder, 1 + seed % 2, disk.before)
        finished = tree(disk.folder)
        with pytest.raises(ConfigError, match="no catalog here"):
            Catalog.open(disk.folder)
        # What calls itself finished is.
        records = [name for name in finished if re.fullmatch(r"videos/[^.]*\.json", name)]
        assert {name: finished[name] for name in records} == {name: undisturbed[name] for name in records}
        of_records = [n for n in undisturbed if any(n.startswith(f"shards/{Path(r).stem}-") for r in records)]
        assert all(finished[name] == undisturbed[name] for name in of_records)
        disk.enlarge()
        whole(clips, disk.folder)
        injection.compare(undisturbed, tree(disk.folder))


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_fills_up_while_the_catalog_is_written(
    inject: Injector, clips: Path, undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    catalog = {name: data for name, data in undisturbed.items() if name.startswith("catalog/")}
    room = random.Random(seed).randrange(0, pages(catalog), PAGE)
    size = pages({name: data for name, data in undisturbed.items() if name not in catalog}) + PAGE + room
    with small_disk(tmp_path / "disk", 64 << 20, len(undisturbed["catalog/frames.arrow"]) - 1) as disk:
        whole(clips, disk.folder)
        for path in (disk.folder / "catalog").iterdir():
            path.unlink()
        disk.resize(size)
        with inject("full disk", "ingest, catalog", PROMISE, seed=seed, at=f"{room} bytes of room") as injection:
            fails(clips, disk.folder, 1, disk.before)
            with pytest.raises(ConfigError, match="no catalog here"):
                Catalog.open(disk.folder)
            disk.enlarge()
            whole(clips, disk.folder)
            injection.compare(undisturbed, tree(disk.folder))


def fails(clips: Path, out: Path, workers: int, before: Callable[[], None] | None) -> None:
    """The ingest ends with a message that names the folder and says what to do."""
    process = start(clips, out, workers, before)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert str(out) in last
    assert re.search(SAYS, last)
    assert "run the same command" in last
    assert "Traceback" not in errors
