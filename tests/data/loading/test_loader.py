import dataclasses
import io
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from data_factory import make_catalog
from PIL import Image
from torch.utils.data import DataLoader

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading import workers
from trocar.data.loading import workers as patience
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.loading.steps import crop_resize, decode
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.errors import ConfigError, TrocarError

RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=24, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=2, size=16, scale=(0.05, 0.4)),
    }
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)


def loader(catalog, known_bad=frozenset(), batch=8, **kwargs):
    selection = Composition(curate="none").resolve(catalog)
    plan = Plan(selection, batch, seed=1)
    return Loader(plan, ViewPlan(RECIPE, 1), Reader(catalog, known_bad), MEAN, STD, **kwargs)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("shards"), 5, 13)


def equal(a, b):
    same_views = all(torch.equal(a.views[k], b.views[k]) for k in a.views)
    return a.step == b.step and (a.rows == b.rows).all() and same_views


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_any_number_of_workers_yields_identical_batches(catalog, workers):
    alone = [loader(catalog, workers=0).batch(step) for step in range(2, 9)]
    prefetched = list(loader(catalog, workers=workers).iterate(2, 9))
    assert len(prefetched) == 7
    assert all(equal(a, b) for a, b in zip(alone, prefetched, strict=True))


def test_ranks_together_yield_the_batch_of_one_rank(catalog):
    for step in range(3):
        whole = loader(catalog).batch(step)
        parts = [loader(catalog, rank=r, world=2).batch(step) for r in range(2)]
        assert (np.concatenate([p.rows for p in parts]) == whole.rows).all()
        assert (np.concatenate([p.params.boxes for p in parts]) == whole.params.boxes).all()
        for name, views in whole.views.items():
            assert torch.equal(torch.cat([p.views[name] for p in parts]), views)


def test_views_have_the_recipe_s_shapes_and_normalisation(catalog):
    batch = loader(catalog).batch(0)
    assert batch.views["global"].shape == (8, 2, 3, 24, 24)
    assert batch.views["local"].shape == (8, 2, 3, 16, 16)
    for channel in range(3):
        low, high = ((v - MEAN[channel]) / STD[channel] for v in (0, 1))
        x = batch.views["global"][:, :, channel]
        assert x.min() >= low - 1e-5
        assert x.max() <= high + 1e-5


def test_a_batch_that_does_not_divide_by_the_ranks_is_refused(catalog):
    with pytest.raises(ConfigError, match="8 does not divide by 3 ranks"):
        loader(catalog, world=3)


def corrupt(catalog, row):
    """Flip a byte in the middle of the JPEG of one row."""
    frames = catalog.frames
    path = catalog.shard_paths[int(frames["shard"][row])]
    with path.open("r+b") as file:
        file.seek(int(frames["offset"][row]) + int(frames["size"][row]) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_a_corrupt_frame_is_replaced_by_the_plan_s_rule_and_reported(tmp_path):
    catalog = make_catalog(tmp_path, 5, 13)
    clean = loader(catalog).batch(0)
    victim = int(clean.rows[3])
    corrupt(catalog, victim)
    batch = loader(catalog).batch(0)
    assert [(b.row, b.reason) for b in batch.bad] == [(victim, "checksum differs from the catalog")]
    assert batch.rows[3] == loader(catalog).plan.replacement(0, 3, 0)
    keep = [0, 1, 2, 4, 5, 6, 7]
    assert (batch.rows[keep] == clean.rows[keep]).all()
    assert torch.equal(batch.views["global"][keep], clean.views["global"][keep])
    assert equal(batch, next(iter(loader(catalog, workers=1).iterate(0, 1))))


def test_a_known_bad_row_stays_replaced_after_a_repair(tmp_path):
    catalog = make_catalog(tmp_path, 5, 13)
    victim = int(loader(catalog).batch(0).rows[3])
    corrupt(catalog, victim)
    broken = loader(catalog).batch(0)
    corrupt(catalog, victim)  # flipping the same bits again repairs it
    assert equal(loader(catalog, frozenset({victim})).batch(0), broken)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_shard_stops_the_run_with_what_to_do(tmp_path, workers):
    catalog = make_catalog(tmp_path, 2, 8)
    for path in catalog.shard_paths:
        path.unlink()
    with pytest.raises(TrocarError, match="is missing; restore it or run `trocar ingest`"):
        list(loader(catalog, workers=workers).iterate(0, 1))


def test_a_worker_that_dies_with_batches_it_has_announced_is_said(catalog):
    before = set(multiprocessing.active_children())
    batches = loader(catalog, workers=1).iterate(0, 50)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    time.sleep(0.3)
    worker.kill()
    worker.join()
    with pytest.raises(TrocarError, match="a loader worker ended before its time"):
        list(batches)


def test_more_shards_than_open_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trocar.data.loading.reader.OPEN_SHARDS", 2)
    catalog = make_catalog(tmp_path, 5, 3)
    reader = Reader(catalog)
    assert [len(reader.read(row)) for row in range(15)] == catalog.frames["size"].tolist()
    assert len(reader._handles) == 2


def test_a_reader_that_learns_of_a_bad_row_keeps_its_shards_open(tmp_path):
    reader = Reader(make_catalog(tmp_path, 3, 4), frozenset({2}))
    first = reader.read(0)
    handles = reader._handles
    wiser = reader.knowing({5})
    assert wiser.known_bad == {2, 5}
    assert wiser._handles is handles
    assert wiser.read(0) == first
    assert len(handles) == 1
    assert reader.read(0) == first  # opens its own


def test_a_stand_in_of_another_size_gets_boxes_of_its_own(tmp_path):
    large, small = (make_catalog(tmp_path / name, 2, 12, size=s) for name, s in (("a", (64, 48)), ("b", (40, 30))))
    reader = Reader(small, frozenset(range(0, 24, 2)))
    width, height = small.frames["width"].copy(), small.frames["height"].copy()
    width[::2], height[::2] = 64, 48  # the catalog says the bad half is larger than the good half
    small.frames = {**small.frames, "width": width, "height": height}
    ours = loader(large)
    mixed = Loader(ours.plan, ours.views, reader, MEAN, STD)
    batch = mixed.batch(0)
    assert (batch.rows % 2 == 1).all()
    assert (ours.plan.rows(0) % 2 == 0).any()
    expected = mixed.views.params(0, np.arange(8), np.full(8, 40), np.full(8, 30))
    assert (batch.params.boxes == expected.boxes).all()


def jpeg(width, height):
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (height, 1))] * 3, -1))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_decode_checks_the_size_and_the_content():
    assert decode(jpeg(40, 30), 40, 30).shape == (3, 30, 40)
    with pytest.raises(BadContentError, match="is 40x30, the catalog says 30x40"):
        decode(jpeg(40, 30), 30, 40)
    with pytest.raises(BadContentError, match="does not decode"):
        decode(b"not a jpeg", 40, 30)
    with pytest.raises(BadContentError, match="pixels"):
        decode(jpeg(40, 30), 20_000, 20_000)


def test_workers_that_are_slow_are_waited_for_and_warned_of(catalog, monkeypatch, caplog):
    monkeypatch.setattr(patience, "WARN_S", 0.3)

    def slow(step):
        if step == 1:
            time.sleep(1)
        return step

    patient = dataclasses.replace(loader(catalog, workers=2), timeout_s=60, rank=0)
    monkeypatch.setattr(patience, "ASK_S", 0.1)
    assert list(patient._from_workers(0, 6, slow)) == list(range(6))
    assert next(record.message for record in caplog.records) == "no batch for 0 s, step 1, rank 0"


def test_workers_that_are_stuck_end_the_run_after_its_limit_and_not_before(catalog):
    def stuck(step):
        if step == 1:
            time.sleep(120)
        return step

    items = dataclasses.replace(loader(catalog, workers=1), timeout_s=1.0)._from_workers(0, 3, stuck)
    assert next(items) == 0
    began = time.monotonic()
    with pytest.raises(TrocarError, match=r"no batch for 1 s \(run.data_timeout_s = 1\), step 1, rank 0"):
        next(items)
    assert 1 <= time.monotonic() - began < 30
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_a_worker_that_is_stopped_while_its_batch_is_fetched_ends_the_run_too(catalog):
    """The batch was announced, and the trainer asks the worker's socket for it: nothing there has a time limit."""
    items = dataclasses.replace(loader(catalog, workers=1), timeout_s=2.0)._from_workers(0, 50, _large)
    assert next(items)[0, 0] == 0
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TrocarError, match=r"no batch for \d s .*rank 0"):
        list(items)
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_a_worker_that_is_killed_with_the_lock_it_shares_leaves_it_to_others():
    items = iter(DataLoader(range(8), num_workers=2))
    lock = items._workers_done_event._cond._lock
    assert lock.acquire(timeout=5)  # as by a worker that looks whether the iterator has ended
    workers._kill(items)
    assert lock.acquire(timeout=5)
    lock.release()
    workers._kill(items)  # with nobody holding it
    assert lock.acquire(timeout=5)
    lock.release()
    items._shutdown_workers()


def _large(step):
    return torch.full((64, 64), step)


def test_crops_are_cut_from_their_box_and_antialiased():
    image = decode(jpeg(64, 48), 64, 48)
    crop = crop_resize(image, (0, 32, 48, 32), 16).float()
    columns = crop.mean((0, 1))
    expected = image[:, :, 32:].float().mean((0, 1)).view(16, 2).mean(1)
    assert (columns[2:-2] - expected[2:-2]).abs().max() < 2
    assert torch.equal(crop_resize(image, (3, 5, 16, 16), 16), image[:, 3:19, 5:21])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_those_of_pil_s_filter_of_that_name(interpolation):
    """With which torchvision resizes pictures; of noise, where one filter is far from the other."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    for top, left, height, width, size in ((3, 5, 40, 50, 16), (1, 2, 9, 12, 24)):
        region = Image.fromarray(noise[top : top + height, left : left + width])
        expected = {
            name: np.asarray(region.resize((size, size), Image.Resampling[name.upper()])).astype(int)
            for name in ("bicubic", "bilinear")
        }
        found = crop_resize(image, (top, left, height, width), size, interpolation).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected.pop(interpolation)).max() <= 1
        (other,) = expected.values()
        assert np.abs(found - other).mean() > 3


def test_half_the_size_bilinearly_is_a_triangle_over_four_pixels():
    row = np.random.default_rng(1).integers(0, 256, 16)
    image = torch.from_numpy(np.tile(row.astype(np.uint8), (3, 16, 1)))
    expected = [row[i - 1 : i + 3] @ [0.125, 0.375, 0.375, 0.125] for i in range(2, 14, 2)]
    found = crop_resize(image, (0, 0, 16, 16), 8, "bilinear")[0, 4, 1:-1].numpy()
    assert found == pytest.approx(np.array(expected), abs=1)


def test_the_pure_function_of_the_step_is_pinned(catalog):
    """Rows and boxes of a fixed selection: a change here changes every run that was ever started."""
    batch = loader(catalog).batch(0)
    pinned = json.dumps([batch.rows.tolist(), batch.params.boxes[0].tolist()])
    assert pinned == PINNED


def test_the_catalog_pickles_with_the_loader(catalog):
    import pickle

    copy = pickle.loads(pickle.dumps(loader(catalog)))
    assert isinstance(copy.reader.catalog, Catalog)
    assert equal(copy.batch(1), loader(catalog).batch(1))


PINNED = "[[9, 60, 52, 41, 39, 40, 17, 44], [[1, 21, 44, 43], [0, 0, 48, 59], [23, 48, 16, 13], [3, 28, 35, 28]]]"
