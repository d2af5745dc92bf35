"""Samples of an anchor and its neighbours, through both backends."""

import numpy as np
import pytest
import torch
from data_factory import make_catalog

from trocar.core.config import validate
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import Reader
from trocar.data.loading.steps import crop_resize, decode
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourSource, resolve_neighbours
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.diagnostics.backend_parity import measure
from trocar.errors import ConfigError

RECIPE = ViewRecipe(
    groups={
        "global": ViewGroup(count=4, size=32, scale=(0.4, 1.0), frame=[0, 0, 1, 2]),
        "near": ViewGroup(count=2, size=16, scale=(0.05, 0.4), frame=2),
        "local": ViewGroup(count=2, size=16, scale=(0.05, 0.4)),
    }
)
SIZES = [(160, 120), (96, 128), (64, 48)]

backends = pytest.mark.parametrize("backend", ["torch", "dali"])


def loader(catalog, backend="torch", known_bad=frozenset(), recipe=RECIPE, **kwargs):
    if backend == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is optional")
    selection = Composition(curate="none").resolve(catalog)
    rule = resolve_neighbours(NeighbourSource(), catalog, selection, 1)
    views, reader = ViewPlan(recipe, 1), Reader(catalog, known_bad)
    plan = Plan(selection, 8, seed=1)
    return Loader(plan, views, reader, (0.5,) * 3, (0.2,) * 3, backend=backend, neighbours=rule, **kwargs)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("shards"), 5, 13, size=SIZES)


def equal(a, b):
    same_rows = (a.rows == b.rows).all() and (a.neighbours == b.neighbours).all()
    return a.step == b.step and same_rows and all(torch.equal(a.views[k], b.views[k]) for k in a.views)


def spoil(catalog, row):
    """Flip a byte in the middle of the JPEG of one row."""
    frames = catalog.frames
    with catalog.shard_paths[int(frames["shard"][row])].open("r+b") as file:
        file.seek(int(frames["offset"][row]) + int(frames["size"][row]) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_every_view_is_cut_from_its_frame_by_a_box_of_that_frame_s_size(catalog):
    ours = loader(catalog)
    crops = ours.crops(2)
    assert crops.params.frame.tolist() == [0, 0, 1, 2, 2, 2, 0, 0]
    assert len({SIZES[row % 13 % 3] for row in crops.frames.ravel()}) == 3
    for sample, rows in enumerate(crops.frames.tolist()):
        images = [decode(ours.reader.read(row), *SIZES[row % 13 % 3]) for row in rows]
        for view, frame in enumerate(crops.params.frame.tolist()):
            top, left, height, width = box = crops.params.boxes[sample, view].tolist()
            assert top >= 0
            assert left >= 0
            assert top + height <= images[frame].shape[1]
            assert left + width <= images[frame].shape[2]
            name, at = ("global", view) if view < 4 else ("near", view - 4) if view < 6 else ("local", view - 6)
            expected = crop_resize(images[frame], box, RECIPE.groups[name].size)
            assert torch.equal(crops.crops[name][sample, at], expected)


def test_neighbours_are_those_of_the_rule_and_of_the_anchor_s_video(catalog):
    ours = loader(catalog)
    batch = ours.batch(3)
    assert (batch.rows == ours.plan.rows(3)).all()
    assert (batch.neighbours == ours.neighbours.draw(3, np.arange(8), batch.rows, 2)).all()
    distance = abs(batch.neighbours - batch.rows[:, None])
    assert ((distance >= 1) & (distance <= 2)).all()
    assert (batch.neighbours // 13 == batch.rows[:, None] // 13).all()
    assert (batch.neighbours[:, 0] != batch.neighbours[:, 1]).all()


@backends
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_yields_identical_batches(catalog, backend, workers):
    alone = [loader(catalog, backend, workers=0).batch(step) for step in (2, 3)]
    prefetched = list(loader(catalog, backend, workers=workers).iterate(2, 4))
    assert len(prefetched) == 2
    assert all(equal(a, b) for a, b in zip(alone, prefetched, strict=True))


@backends
def test_ranks_together_yield_the_batch_of_one_rank(catalog, backend):
    whole = loader(catalog, backend).batch(1)
    parts = [loader(catalog, backend, rank=r, world=2).batch(1) for r in range(2)]
    assert (np.concatenate([p.rows for p in parts]) == whole.rows).all()
    assert (np.concatenate([p.neighbours for p in parts]) == whole.neighbours).all()
    for name, views in whole.views.items():
        assert torch.equal(torch.cat([p.views[name] for p in parts]), views)


def test_both_backends_give_the_same_crops_of_the_same_frames(catalog):
    for step in (0, 3):
        found = measure(loader(catalog), loader(catalog, "dali"), step)
        assert found.problems() == []
        assert (found.frames, found.views) == (8, 64)


@backends
def test_a_bad_anchor_is_replaced_first_and_its_stand_in_gets_neighbours_of_its_own(tmp_path, backend):
    catalog = make_catalog(tmp_path, 5, 13, size=SIZES)
    clean = loader(catalog).crops(0)
    spoil(catalog, victim := int(clean.rows[3]))
    ours = loader(catalog, backend)
    crops = ours.crops(0)
    stand_in = ours.plan.replacement(0, 3, 0)
    wanted = ours.neighbours.draw(0, np.array([3]), np.array([stand_in]), 2)[0]
    assert crops.frames[3].tolist() == [stand_in, *wanted.tolist()]
    assert {bad.row for bad in crops.bad} == {victim}
    sizes = np.array([SIZES[row % 13 % 3] for row in crops.frames[3]])
    expected = ours.views.params(0, np.array([3]), sizes[None, :, 0], sizes[None, :, 1])
    assert (crops.params.boxes[3] == expected.boxes[0]).all()
    assert crops.params.frame.tolist() == clean.params.frame.tolist()


@backends
def test_a_bad_neighbour_is_replaced_by_its_anchor_and_reported(tmp_path, backend):
    catalog = make_catalog(tmp_path, 5, 13, size=SIZES)
    clean = loader(catalog, backend).crops(0)
    victim = next(int(row) for row in clean.frames[:, 1] if row not in clean.rows)
    spoil(catalog, victim)
    ours = loader(catalog, backend)
    crops = ours.crops(0)
    expected = np.where(clean.frames == victim, clean.frames[:, :1], clean.frames)
    assert (crops.frames == expected).all()
    hit = (clean.frames == victim).any(1)
    assert [(bad.row, bad.reason) for bad in crops.bad] == [(victim, "checksum differs from the catalog")] * hit.sum()
    sizes = np.array([[SIZES[row % 13 % 3] for row in rows] for rows in expected])
    params = ours.views.params(0, np.arange(8), sizes[..., 0], sizes[..., 1])
    assert (crops.params.boxes == params.boxes).all()
    for name in crops.crops:
        assert torch.equal(crops.crops[name][~hit], clean.crops[name][~hit])
    # A resumed run that knows of it sees the same, whether or not the file was repaired.
    spoil(catalog, victim)
    again = loader(catalog, backend, frozenset({victim})).crops(0)
    assert (again.frames == expected).all()
    assert again.bad == []
    assert all(torch.equal(again.crops[name], crops.crops[name]) for name in crops.crops)


def test_a_neighbour_that_only_a_decoder_finds_bad_is_replaced_by_both_backends(tmp_path):
    import zlib

    catalog = make_catalog(tmp_path, 5, 13, size=(160, 120))
    clean = loader(catalog).crops(1)
    victim = next(int(row) for row in clean.frames[:, 2] if row not in clean.rows)
    offset, size = int(catalog.frames["offset"][victim]), int(catalog.frames["size"][victim])
    with catalog.shard_paths[int(catalog.frames["shard"][victim])].open("r+b") as file:
        file.seek(offset)
        jpeg = bytearray(file.read(size))
        at = jpeg.index(b"\xff\xc4") + 5
        jpeg[at : at + 16] = b"\xff" * 16  # no Huffman table
        file.seek(offset)
        file.write(jpeg)
    crc = catalog.frames["crc32"].copy()
    crc[victim] = zlib.crc32(jpeg)
    catalog.frames = {**catalog.frames, "crc32": crc}
    expected = [loader(catalog).crops(step) for step in range(3)]
    found = list(loader(catalog, "dali").iterate(0, 3))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.rows == theirs.rows).all()
        assert (ours.neighbours == theirs.frames[:, 1:]).all()
        assert (ours.params.boxes == theirs.params.boxes).all()
    assert {bad.row for bad in found[1].bad} == {victim}


def test_a_frame_that_comes_twice_in_a_sample_is_decoded_once(catalog, monkeypatch):
    decoded = []
    monkeypatch.setattr("trocar.data.loading.steps.decode", lambda *a: decoded.append(a) or decode(*a))
    ours = loader(catalog)
    monkeypatch.setattr(
        type(ours.neighbours), "draw", lambda self, step, slots, anchors, count: np.stack([anchors, anchors + 0], 1)
    )
    crops = ours.crops(0)
    assert (crops.frames == crops.rows[:, None]).all()
    assert len(decoded) == 8


def test_views_of_neighbours_need_a_rule(catalog):
    ours = loader(catalog)
    with pytest.raises(ConfigError, match=r"cut from 2 neighbour frames, but this method draws none; set method"):
        Loader(ours.plan, ours.views, ours.reader, ours.mean, ours.std)


def test_a_rule_without_views_of_neighbours_changes_nothing(catalog):
    recipe = ViewRecipe(groups={"global": ViewGroup(count=2, size=32, scale=(0.4, 1.0))})
    with_rule = loader(catalog, recipe=recipe)
    batch = with_rule.batch(0)
    assert batch.neighbours is None
    without = Loader(with_rule.plan, with_rule.views, with_rule.reader, with_rule.mean, with_rule.std)
    assert torch.equal(without.batch(0).views["global"], batch.views["global"])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (-1, r"frame: expected 0..127"),
        (128, r"frame: expected 0..127"),
        ([0], "one for each of the 2 views"),
        ([0, 2], "no view is cut from frame 1, though there are views of frame 2"),
    ],
)
def test_a_frame_that_cannot_be_meant_is_refused(frame, message):
    tree = {"groups": {"global": {"count": 2, "size": 32, "scale": [0.4, 1.0], "frame": frame}}}
    with pytest.raises(ConfigError, match=message):
        validate(ViewRecipe, tree, "test")
