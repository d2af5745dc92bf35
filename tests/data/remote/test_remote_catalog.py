import json
import pickle
import shutil
import stat
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_factory import make_catalog
from store_factory import WebStore

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading import shard_files
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.remote import mirror
from trocar.data.remote import store as store_module
from trocar.data.remote.ranges import Blocks
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourTable, write_table
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.errors import ConfigError, TrocarError

RECIPE = ViewRecipe(groups={"global": ViewGroup(count=2, size=16, scale=(0.4, 1.0))})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "FIRST_WAIT_S", 0.005)
    return tmp_path / "cache" / "trocar" / "catalogs"


@pytest.fixture
def local(tmp_path):
    return make_catalog(tmp_path / "shards", 4, 16)


@pytest.fixture
def web(local):
    with WebStore(local.root) as web:
        yield web


def test_it_is_the_catalog_that_was_copied_there(local, web):
    catalog = Catalog.open(web.address)
    assert catalog.fingerprint == local.fingerprint
    assert catalog.location == web.address
    assert catalog.videos.equals(local.videos)
    again = pickle.loads(pickle.dumps(catalog))
    for row in (0, 17, 63):
        assert Reader(again).read(row) == Reader(local).read(row)
        assert catalog[row].tobytes() == local[row].tobytes()
    assert not (catalog.root / "shards").exists()  # no shard was copied


def test_it_is_copied_once_and_anew_when_it_changes(local, web, cache):
    Catalog.open(web.address)
    web.asked.clear()
    Catalog.open(web.address)
    assert {path for path, _ in web.asked} == {"/shards/catalog/catalog.json"}  # of the others only the version
    shutil.rmtree(local.root)
    grown = make_catalog(local.root, 5, 16)
    assert Catalog.open(web.address).fingerprint == grown.fingerprint
    (address,) = cache.iterdir()
    assert len(list(address.iterdir())) == 2
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_change_that_its_header_does_not_show_is_seen(local, web):
    """Such as a case that is marked as private later: names, contents, counts and sizes are what they were."""
    before = Catalog.open(web.address).videos["hospital"].to_pylist()
    path = local.root / "catalog" / "videos.parquet"
    table, other = pq.read_table(path), ["south" if name == "north" else "north" for name in before]
    at = table.schema.get_field_index("hospital")
    pq.write_table(table, path)
    size = path.stat().st_size
    pq.write_table(table.set_column(at, "hospital", pa.array(other)), path)
    assert path.stat().st_size == size  # so nothing in the header differs
    header = json.loads((local.root / "catalog" / "catalog.json").read_text())
    header["files"]["videos.parquet"] = size
    (local.root / "catalog" / "catalog.json").write_text(json.dumps(header))
    assert Catalog.open(web.address).videos["hospital"].to_pylist() == other
    pq.write_table(table, path)
    assert Catalog.open(web.address).videos["hospital"].to_pylist() == before


def test_a_catalog_that_is_being_replaced_is_waited_for(local, web, monkeypatch):
    path = local.root / "catalog" / "quality.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: path.write_bytes(whole))
    assert len(Catalog.open(web.address)) == len(local)
    path.write_bytes(whole[:-7])
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: None)
    with pytest.raises(TrocarError, match="do not belong together; they are being replaced, or were copied in part"):
        Catalog.open(web.address)
    path.write_bytes(whole)
    assert len(Catalog.open(web.address)) == len(local)  # nothing of the attempt is left


def test_a_cache_that_cannot_be_written_is_named(local, web, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(TrocarError, match=r"/proc/nowhere.*; the catalog of .* is copied there, and XDG_CACHE_HOME"):
        Catalog.open(web.address)


def test_only_what_was_opened_from_here_is_known(web):
    assert not mirror.is_known(web.address)
    assert not mirror.is_known("https://jane:secret@store/shards")
    Catalog.open(web.address)
    assert mirror.is_known(web.address + "/")


def test_samples_for_other_pipelines_name_the_store(local, web):
    catalog = Catalog.open(web.address)
    for seed in (None, 3):
        ours, theirs = (list(one.webdataset(seed=seed)) for one in (catalog, local))
        assert [sample["jpg"] for sample in ours] == [sample["jpg"] for sample in theirs]
        assert {sample["__url__"].rpartition("/")[0] for sample in ours} == {web.address + "/shards"}


def test_a_shard_that_was_cut_short_is_a_bad_frame_as_in_a_folder(local, web):
    row = len(local) - 1
    shard = local.shard_paths[int(local.frames["shard"][row])]
    shard.write_bytes(shard.read_bytes()[: int(local.frames["offset"][row])])
    for catalog in (local, Catalog.open(web.address)):
        with pytest.raises(BadContentError, match=r"shard ends .* bytes early"):
            Reader(catalog).read(row)


def test_a_copy_that_was_interrupted_goes_on(local, web, cache):
    web.fault = lambda number, path: "403" if "quality" in path else ""
    with pytest.raises(TrocarError, match=r"quality\.parquet: the store refuses it"):
        Catalog.open(web.address)
    web.fault = lambda number, path: ""
    assert len(Catalog.open(web.address)) == len(local)


def test_where_there_is_no_catalog_it_says_what_to_copy(local, web):
    with pytest.raises(ConfigError, match=r"/elsewhere/catalog/catalog\.json is missing; .* a whole shards folder"):
        Catalog.open(web.address + "/elsewhere")
    header = json.loads((local.root / "catalog" / "catalog.json").read_text())
    header["files"]["../../outside"] = 3
    (local.root / "catalog" / "catalog.json").write_text(json.dumps(header))
    with pytest.raises(TrocarError, match="outside of it; refused"):
        Catalog.open(web.address)


def test_a_neighbour_index_comes_with_it(local, web):
    n = len(local)
    rows, distances = np.zeros((n, 2), np.int64), np.ones((n, 2), np.float32)
    write_table(local, "near", rows, distances, np.ones(n, np.float32), {"backbone": "x"})
    table = NeighbourTable.open(Catalog.open(web.address), "near")
    assert table.fingerprint == NeighbourTable.open(local, "near").fingerprint
    with pytest.raises(ConfigError, match="has no neighbour index 'far'"):
        NeighbourTable.open(Catalog.open(web.address), "far")


def loader(catalog, shuffle="global", workers=0, blocks=None, **more):
    plan = Plan(Composition(curate="none").resolve(catalog), 8, 1, shuffle)
    reader = Reader(catalog, blocks=blocks)
    return Loader(plan, ViewPlan(RECIPE, 1), reader, (0.5,) * 3, (0.2,) * 3, workers=workers, **more)


@pytest.mark.parametrize(("shuffle", "workers"), [("global", 0), ("global", 2), ("window", 2)])
def test_batches_are_those_of_local_shards_through_failures(local, web, tmp_path, shuffle, workers):
    blocks = Blocks(tmp_path / "blocks", 1 << 30) if shuffle == "window" else None
    catalog = Catalog.open(web.address)
    damaged = dict.fromkeys((11, 90), "damaged")
    web.fault = lambda number, path: damaged.get(number) or {3: "503", 7: "cut"}.get(number % 13, "")
    ours = list(loader(catalog, shuffle, workers, blocks).iterate(3, 12))
    expected = list(loader(local, shuffle).iterate(3, 12))
    for a, b in zip(ours, expected, strict=True):
        assert (a.rows == b.rows).all()
        assert not a.bad
        assert torch.equal(a.views["global"], b.views["global"])


def test_the_next_step_is_asked_for_while_this_one_is_made(local, web):
    steps = loader(Catalog.open(web.address)).steps
    steps.deliver(0, lambda row, jpeg: jpeg, lambda index, frames, params: None)
    frames = local.frames
    wanted = {(int(frames["shard"][r]), int(frames["offset"][r]), int(frames["size"][r])) for r in steps.plan.rows(1)}
    assert set(steps.reader._ranges._coming) == wanted


@pytest.mark.parametrize("damage", ["block", "store"])
def test_a_damaged_block_is_fetched_anew_and_a_damaged_shard_is_a_bad_frame(local, web, tmp_path, damage):
    blocks = Blocks(tmp_path / "blocks", 1 << 30)
    catalog = Catalog.open(web.address)
    right = Reader(local).read(5)
    assert Reader(catalog, blocks=blocks).read(5) == right
    place = tmp_path / "blocks" / "0-0" if damage == "block" else local.shard_paths[0]
    data = bytearray(place.read_bytes())
    data[int(local.frames["offset"][5]) + 30] ^= 255
    place.write_bytes(data)
    if damage == "block":
        assert Reader(catalog, blocks=blocks).read(5) == right
        return
    shutil.rmtree(tmp_path / "blocks")
    with pytest.raises(BadContentError, match="checksum differs"):
        Reader(catalog, blocks=blocks).read(5)


def test_staging_copies_what_is_read_next_and_reads_it_there(local, web, tmp_path):
    catalog = Catalog.open(web.address)
    plan = Plan(Composition(curate="none").resolve(catalog), 4, 1)
    shards = shard_files.in_order_of_use(catalog, plan, np.arange(2), range(6, 8))
    used = [int(catalog.frames["shard"][row]) for step in (6, 7) for row in plan.rows(step)[:2]]
    assert shards == list(dict.fromkeys(used))
    shard_files.copy(catalog, shards[:1], tmp_path / "disk", lambda line: None, spare=0)
    staged = shard_files.present(catalog, tmp_path / "disk")
    assert [path.read_bytes() for path in staged.values()] == [local.shard_paths[shards[0]].read_bytes()]
    web.asked.clear()
    row = used.index(shards[0])
    row = int(plan.rows(6 + row // 2)[row % 2])
    assert Reader(catalog, staged=staged).read(row) == Reader(local).read(row)
    assert web.asked == []


def test_a_store_that_goes_away_ends_with_its_address(local, web):
    catalog = Catalog.open(web.address)
    web.fault = lambda number, path: "503"
    batches = loader(catalog, workers=2).iterate(0, 3)
    with pytest.raises(TrocarError, match=r"cannot read http.*video.* after 7 attempts"):
        next(batches)
    read = partial(Reader(catalog).read, 3)
    with pytest.raises(TrocarError, match="is the store reachable from here"):
        read()
