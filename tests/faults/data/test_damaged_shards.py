"""Shards that are cut short, gone, another file or damaged inside: all that is not of the damaged place is as ever."""

from __future__ import annotations

import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_factory import make_catalog
from fault_record import Injection, Injector
from stream_factory import STEPS, frames_of, make_loader, stream

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.dali_pipeline import is_available
from trocar.errors import TrocarError

PROMISE = "its frames are replaced by the plan's rule, and told; all others are the undisturbed run's"
dali = pytest.param("dali", marks=pytest.mark.skipif(not is_available(), reason="DALI is not installed"))
backends = pytest.mark.parametrize("backend", ["torch", dali])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_catalog(folder, 5, 13)
    return folder


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "shards"))


def survives(injection: Injection, sound: Path, root: Path, backend: str, damaged: set[int], reason: str) -> None:
    """The stream has stand-ins for the damaged rows alone, and says of every one that it met."""
    undisturbed = stream(make_loader(Catalog.open(sound), backend=backend))
    batches = list(make_loader(Catalog.open(root), backend=backend).iterate(0, STEPS))
    found = frames_of(batches)
    others = {place: frame for place, frame in undisturbed.items() if frame[0] not in damaged}
    assert 0 < len(others) < len(undisturbed)
    injection.compare(others, {place: found[place] for place in others})
    # What stands in is what the plan says: a run that knew of the damage beforehand has the same.
    knowing = make_loader(Catalog.open(sound), frozenset(damaged), backend=backend)
    injection.compare(stream(knowing), found)
    told = {bad.row for batch in batches for bad in batch.bad}
    assert {frame[0] for frame in undisturbed.values()} & damaged <= told <= damaged
    assert all(reason in bad.reason for batch in batches for bad in batch.bad)


def rows_of(catalog: Catalog, shard: int) -> np.ndarray:
    return np.flatnonzero(catalog.frames["shard"] == shard)


@backends
@pytest.mark.parametrize("seed", range(4))
def test_a_shard_cut_short_loses_the_frames_behind_the_cut(
    inject: Injector, sound: Path, root: Path, backend: str, seed: int
) -> None:
    catalog, rng = Catalog.open(root), random.Random(seed)
    shard = rng.randrange(5)
    path = catalog.shard_paths[shard]
    length = rng.randrange(path.stat().st_size * 3 // 4)
    at = f"{length} of {path.stat().st_size} bytes, {backend}"
    with inject("shard cut short", "loader", PROMISE, seed=seed, at=at) as injection:
        with path.open("r+b") as file:
            file.truncate(length)
        frames = catalog.frames
        damaged = {int(r) for r in rows_of(catalog, shard) if frames["offset"][r] + frames["size"][r] > length}
        survives(injection, sound, root, backend, damaged, "bytes early")


@backends
@pytest.mark.parametrize("seed", range(2))
def test_another_shard_under_its_name_lets_nothing_in(
    inject: Injector, sound: Path, root: Path, tmp_path: Path, backend: str, seed: int
) -> None:
    shard = random.Random(seed).randrange(5)
    other = make_catalog(tmp_path / "other", 5, 13, seed=1 + seed)
    with inject("shard replaced by another", "loader", PROMISE, seed=seed, at=f"shard {shard}, {backend}") as injection:
        catalog = Catalog.open(root)
        shutil.copy(other.shard_paths[shard], catalog.shard_paths[shard])
        survives(injection, sound, root, backend, set(rows_of(catalog, shard).tolist()), "checksum differs")


def test_shards_that_are_all_of_another_ingest_are_an_error(
    inject: Injector, sound: Path, root: Path, tmp_path: Path
) -> None:
    other = make_catalog(tmp_path / "other", 5, 13, seed=9)
    promise = "an error says so, nothing is delivered; with the shards back all is"
    with inject("all shards replaced by others", "loader", promise) as injection:
        for ours, theirs in zip(Catalog.open(root).shard_paths, other.shard_paths, strict=True):
            shutil.copy(theirs, ours)
        delivered = []
        with pytest.raises(TrocarError, match="the shards differ from the catalog"):
            delivered.extend(make_loader(Catalog.open(root)).iterate(0, STEPS))
        assert delivered == []
        shutil.copytree(sound / "shards", root / "shards", dirs_exist_ok=True)
        injection.compare(stream(make_loader(Catalog.open(sound))), stream(make_loader(Catalog.open(root))))


@backends
@pytest.mark.parametrize("seed", range(2))
def test_a_missing_shard_is_an_error_behind_the_steps_before_it(
    inject: Injector, sound: Path, root: Path, backend: str, seed: int
) -> None:
    undisturbed = stream(make_loader(Catalog.open(sound), backend=backend))
    catalog, rng = Catalog.open(root), random.Random(seed)
    promise = "an error names it; the steps before are the undisturbed run's, and with the shard back all are"
    shard = rng.randrange(5)
    path = catalog.shard_paths[shard]
    with inject("shard missing", "loader", promise, seed=seed, at=f"shard {shard}, {backend}") as injection:
        path.rename(path.with_suffix(".away"))
        batches = []
        with pytest.raises(TrocarError, match=rf"{path.name} is missing; restore it"):
            batches.extend(make_loader(catalog, backend=backend).iterate(0, STEPS))
        first = min(step for (step, _), (row, _) in undisturbed.items() if catalog.frames["shard"][row] == shard)
        assert frames_of(batches).keys() == {place for place in undisturbed if place[0] < first}
        path.with_suffix(".away").rename(path)
        injection.compare(undisturbed, stream(make_loader(catalog, backend=backend)))


def flip(jpeg: bytearray, rng: random.Random) -> None:
    jpeg[rng.randrange(len(jpeg))] ^= 1 << rng.randrange(8)


def cut_tables(jpeg: bytearray, rng: random.Random) -> None:
    """What is left has the right length, begin and end, and cannot be decoded."""
    start = jpeg.index(b"\xff\xdb") + 4
    jpeg[start : start + 400] = bytes(400)


@backends
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("damage", "fits"), [(flip, False), (cut_tables, False), (cut_tables, True)])
def test_one_corrupt_jpeg_is_replaced(
    inject: Injector,
    sound: Path,
    root: Path,
    backend: str,
    seed: int,
    damage: Callable[[bytearray, random.Random], None],
    fits: bool,
) -> None:
    """`fits`: the catalog has the checksum of the damaged bytes, so that only a decoder can tell."""
    catalog, rng = Catalog.open(root), random.Random(seed)
    row = int(make_loader(catalog).plan.rows(rng.randrange(STEPS))[rng.randrange(8)])
    at = f"row {row}, {damage.__name__}, {'with' if fits else 'against'} the checksum, {backend}"
    with inject("one corrupt JPEG", "loader", PROMISE, seed=seed, at=at) as injection:
        damage_row(catalog, row, damage, rng, fits)
        survives(injection, sound, root, backend, {row}, "" if fits else "checksum differs")


def damage_row(
    catalog: Catalog, row: int, damage: Callable[[bytearray, random.Random], None], rng: random.Random, fits: bool
) -> None:
    frames = catalog.frames
    with catalog.shard_paths[int(frames["shard"][row])].open("r+b") as file:
        file.seek(int(frames["offset"][row]))
        jpeg = bytearray(file.read(int(frames["size"][row])))
        damage(jpeg, rng)
        file.seek(int(frames["offset"][row]))
        file.write(jpeg)
    if fits:
        path = catalog.root / "catalog/frames.arrow"
        table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        crc = table["crc32"].to_numpy().copy()
        crc[row] = zlib.crc32(jpeg)
        table = table.set_column(table.schema.get_field_index("crc32"), "crc32", pa.array(crc))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_batch(table.combine_chunks().to_batches()[0])
