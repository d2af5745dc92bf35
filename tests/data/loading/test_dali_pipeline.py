"""The DALI graph on a CPU: the same views as the torch backend, the same stand-ins for bad frames."""

import gc
import logging
import struct
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_factory import make_catalog

from trocar.data.loading import dali_stream
from trocar.data.loading.dali_pipeline import border
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.diagnostics.backend_parity import CROP_BOUND, measure
from trocar.errors import ConfigError, TrocarError

pytest.importorskip("nvidia.dali", reason="DALI is optional")

RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=2, size=64, scale=(0.4, 1.0), blur=[1.0, 0.1], solarize=[0.0, 0.2]),
        "local": ViewGroup(count=2, size=32, scale=(0.05, 0.4)),
    }
)


def loader(catalog, backend, **kwargs):
    plan = Plan(Composition(curate="none").resolve(catalog), 8, seed=1)
    return Loader(plan, ViewPlan(RECIPE, 1), Reader(catalog), (0.5,) * 3, (0.2,) * 3, backend=backend, **kwargs)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("shards"), 5, 13, size=(160, 120))


def equal(a, b):
    return a.step == b.step and (a.rows == b.rows).all() and all(torch.equal(a.views[k], b.views[k]) for k in a.views)


def damage(catalog, row, kind):
    """Damage the JPEG of a row in place and let the catalog's checksum agree with it."""
    import zlib

    frames = catalog.frames
    offset, size = int(frames["offset"][row]), int(frames["size"][row])
    with catalog.shard_paths[int(frames["shard"][row])].open("r+b") as file:
        file.seek(offset)
        jpeg = bytearray(file.read(size))
        kind(jpeg)
        file.seek(offset)
        file.write(jpeg)
    crc = frames["crc32"].copy()
    crc[row] = zlib.crc32(jpeg)
    catalog.frames = {**frames, "crc32": crc}


def marker_in_data(jpeg):
    at = jpeg.index(b"\xff\xda") + 60
    jpeg[at : at + 2] = b"\xff\xe5"


def taller(jpeg):
    struct.pack_into(">H", jpeg, jpeg.index(b"\xff\xc0") + 5, 240)


def bogus_huffman_table(jpeg):
    at = jpeg.index(b"\xff\xc4") + 5
    jpeg[at : at + 16] = b"\xff" * 16


def broken_entropy(jpeg):
    at = jpeg.index(b"\xff\xda") + 200
    jpeg[at : at + 40] = bytes(40)


def test_the_same_step_gives_the_same_views(catalog):
    for step in (0, 3):
        found = measure(loader(catalog, "torch"), loader(catalog, "dali"), step)
        assert found.problems() == []
        assert (found.frames, found.views) == (8, 32)
        assert found.crop_p999 <= CROP_BOUND
        assert 0 < found.view_share <= 1


def test_boxes_that_touch_nothing_and_everything_agree_inside_their_border(tmp_path):
    """Noise shows a shift of half a pixel, or another filter, as tens of 255."""
    from trocar.diagnostics.backend_parity import loader_of, write_frames

    textured = write_frames(tmp_path / "shards")
    cpu = torch.device("cpu")
    found = measure(loader_of(textured, "torch", cpu), loader_of(textured, "dali", cpu))
    assert found.problems() == []
    assert found.crop_p999 <= CROP_BOUND
    assert found.edge_max > found.crop_p999  # the border is where they differ


def test_the_border_is_where_the_filter_leaves_the_box():
    assert border((0, 0, 128, 256), 64, "bicubic") == (2, 2)
    assert border((0, 0, 32, 64), 64, "bicubic") == (4, 2)
    assert border((0, 0, 32, 64), 64, "bilinear") == (2, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_both_backends_take_the_filter_that_the_recipe_names(tmp_path, interpolation):
    from trocar.diagnostics.backend_parity import write_frames

    textured = write_frames(tmp_path / "shards")

    def of(backend, filtered):
        group = ViewGroup(count=2, size=96, scale=(0.2, 1.0), interpolation=filtered)
        return replace(loader(textured, backend), views=ViewPlan(ViewRecipe(groups={"only": group}), 1))

    other = {"bicubic": "bilinear", "bilinear": "bicubic"}[interpolation]
    assert measure(of("torch", interpolation), of("dali", interpolation)).problems() == []
    assert measure(of("torch", other), of("dali", interpolation)).problems() != []


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_threads_yields_identical_batches(catalog, workers):
    alone = [loader(catalog, "dali", workers=0).batch(step) for step in (2, 5)]
    batches = {b.step: b for b in loader(catalog, "dali", workers=workers).iterate(2, 6)}
    assert list(batches) == [2, 3, 4, 5]
    assert all(equal(batch, batches[batch.step]) for batch in alone)


def test_ranks_together_yield_the_batch_of_one_rank(catalog):
    whole = loader(catalog, "dali").batch(1)
    parts = [loader(catalog, "dali", rank=r, world=2).batch(1) for r in range(2)]
    assert (np.concatenate([p.rows for p in parts]) == whole.rows).all()
    for name, views in whole.views.items():
        assert torch.equal(torch.cat([p.views[name] for p in parts]), views)


@pytest.mark.parametrize("kind", [marker_in_data, taller, bogus_huffman_table, broken_entropy])
def test_a_damaged_frame_is_treated_as_with_the_torch_backend(tmp_path, kind):
    catalog = make_catalog(tmp_path, 5, 13, size=(160, 120))
    clean = loader(catalog, "torch").crops(1)
    damage(catalog, int(clean.rows[3]), kind)
    expected = [loader(catalog, "torch").crops(step) for step in range(4)]
    found = list(loader(catalog, "dali").iterate(0, 4))
    assert [b.step for b in found] == [0, 1, 2, 3]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.rows == theirs.rows).all()
        assert (ours.params.boxes == theirs.params.boxes).all()
        assert ours.bad == theirs.bad
    assert bool(found[1].bad) == (kind is not broken_entropy)  # libjpeg paints over what it can


def test_a_frame_that_ended_a_pipeline_does_not_end_the_next_one(tmp_path, caplog):
    catalog = make_catalog(tmp_path, 2, 8, size=(160, 120))  # 16 frames: every other step has the bad one
    rows = loader(catalog, "torch").crops(0).rows
    damage(catalog, int(rows[2]), bogus_huffman_table)
    with caplog.at_level(logging.WARNING):
        batches = list(loader(catalog, "dali", workers=0).iterate(0, 6))
    assert sum("DALI gave up" in record.getMessage() for record in caplog.records) <= 2
    assert {bad.row for batch in batches for bad in batch.bad} == {int(rows[2])}
    assert not any(rows[2] in batch.rows for batch in batches)


def test_frames_that_only_dali_refuses_are_delivered_by_torch_with_a_warning(catalog, monkeypatch, caplog):
    run, broken = dali_stream.DaliStream._run, []

    def refuse_once(self):
        if self._next == 3 and not broken:
            broken.append(True)
            raise RuntimeError("decoder says no")
        return run(self)

    monkeypatch.setattr(dali_stream.DaliStream, "_run", refuse_once)
    monkeypatch.setattr(dali_stream, "is_decodable", lambda jpeg, device: len(jpeg) % 2 == 0)
    with caplog.at_level(logging.WARNING):
        found = list(loader(catalog, "dali", workers=0).iterate(2, 5))
    monkeypatch.undo()
    assert [b.step for b in found] == [2, 3, 4]
    assert equal(found[1], loader(catalog, "torch").batch(3))
    assert equal(found[2], loader(catalog, "dali").batch(4))
    assert "step 3: the torch backend decodes every frame, DALI does not (video" in caplog.text


def test_a_dali_that_fails_at_every_step_ends_the_run_with_its_reason(catalog, monkeypatch):
    def refuse(self):
        raise RuntimeError("Critical error in pipeline:\nout of memory\nCurrent pipeline object is no longer valid.")

    monkeypatch.setattr(dali_stream.DaliStream, "_run", refuse)
    monkeypatch.setattr(dali_stream, "is_decodable", lambda jpeg, device: True)
    delivered = []
    with pytest.raises(
        TrocarError, match=r"failed at 6 steps in a row .*\(out of memory\); go on with data.backend=torch"
    ):
        delivered.extend(batch.step for batch in loader(catalog, "dali", workers=0).iterate(0, 20))
    assert dali_stream.MAX_FAILURES == 5


def test_pixels_of_another_step_are_noticed(catalog, monkeypatch):
    monkeypatch.setattr(dali_stream, "tags", lambda done: np.stack([done.rows, done.rows], -1))
    with pytest.raises(AssertionError, match="other frames than those of step 0"):
        loader(catalog, "dali", workers=0).batch(0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_missing_stops_the_run_behind_the_steps_before_it(tmp_path, workers):
    catalog = make_catalog(tmp_path, 2, 8, size=(160, 120))
    for path in catalog.shard_paths:
        path.unlink()
    with pytest.raises(TrocarError, match="is missing; restore it or run `trocar ingest`"):
        list(loader(catalog, "dali", workers=workers).iterate(0, 2))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_pipeline_is_gone_when_its_last_batch_is_or_its_iterator(catalog, monkeypatch, steps):
    built, build = [], dali_stream.build_pipeline

    def remembered(*args):
        pipeline = build(*args)
        built.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr(dali_stream, "build_pipeline", remembered)
    gc.disable()
    try:
        batches = loader(catalog, "dali", workers=0).iterate(0, 2)
        for _ in range(steps):
            next(batches)
        assert [ref() is not None for ref in built] == [True]
        del batches
        assert [ref() for ref in built] == [None]
    finally:
        gc.enable()


def test_a_pipeline_left_as_garbage_does_not_take_a_forked_worker_down(catalog):
    def collect(step):
        gc.collect()
        return step

    gc.disable()
    try:
        stream = dali_stream.DaliStream(loader(catalog, "dali").steps, 0, 2, torch.device("cpu"), 1, 0.0)
        next(stream)
        del stream  # the pipeline and the stream refer to each other
        assert list(loader(catalog, "torch", workers=1)._from_workers(0, 2, collect)) == [0, 1]
    finally:
        gc.enable()


def test_dali_that_is_not_installed_is_a_configuration_error(catalog, monkeypatch):
    monkeypatch.setattr("trocar.data.loading.dali_pipeline.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r'pip install "trocar\[cuda13\]"'):
        loader(catalog, "dali", workers=0).batch(0)
