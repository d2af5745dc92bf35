"""The index builder, against brute force in float64."""

import json

import numpy as np
import pytest
import torch
from data_factory import make_catalog

from trocar.backbones.identify import fingerprint
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.cli.main import main
from trocar.data.loading.reader import Reader
from trocar.data.loading.steps import crop_resize, decode
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourSource, NeighbourTable, resolve_neighbours
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.guard import RunGuard
from trocar.ssl import neighbour_index
from trocar.ssl.neighbour_index import NeighbourIndexConfig, build_index, nearest_of_other_groups

NET = "random:test_resnet"


def quiet(line):
    pass


def build(catalog, **config):
    config = {
        "backbone": NET,
        "name": "alike",
        "size": 32,
        "workers": 0,
        "composition": Composition(curate="none"),
    } | config
    return build_index(NeighbourIndexConfig(catalog=catalog.root, **config), RunGuard(quiet), quiet)


def features(catalog, rows=None):
    """float64[n, D], one frame at a time."""
    model, reader = load_backbone(NET).eval(), Reader(catalog)
    shape, out = describe_backbone(model), []
    for row in range(len(catalog)) if rows is None else rows:
        width, height = int(catalog.frames["width"][row]), int(catalog.frames["height"][row])
        image = crop_resize(decode(reader.read(row), width, height), (0, 0, height, width), 32)
        with torch.no_grad():
            out.append(model(shape.normalise(image[None]))[0].double().numpy())
    return np.stack([x / np.linalg.norm(x) for x in out])


def clusters(n=600, groups=7, width=16, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) + 3 * rng.normal(size=(12, width))[rng.integers(12, size=n)]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return x, np.sort(rng.integers(groups, size=n))


def brute_force(x, groups, k):
    x = x.astype(np.float64)
    distance = np.sqrt(np.clip(2 - 2 * x @ x.T, 0, None))
    distance[groups[:, None] == groups[None]] = np.inf
    order = np.argsort(distance, axis=1)[:, :k]
    return order, np.take_along_axis(distance, order, 1)


def searched(x, groups, k, exact):
    rows, distances = np.full((len(x), k), -7), np.zeros((len(x), k))
    for block, found, apart in nearest_of_other_groups(x, groups, k, exact=exact):
        rows[block], distances[block] = found, apart
    return rows, distances


def test_the_exact_search_is_brute_force_over_other_groups(monkeypatch):
    monkeypatch.setattr(neighbour_index, "QUERIES", 50)
    x, groups = clusters()
    rows, distances = searched(x, groups, 5, exact=True)
    expected, apart = brute_force(x, groups, 5)
    assert (rows == expected).all()
    np.testing.assert_allclose(distances, apart, rtol=1e-5)


def test_the_inverted_file_finds_most_of_them_and_never_one_of_the_same_group(monkeypatch):
    monkeypatch.setattr(neighbour_index, "PROBES", 24)
    x, groups = clusters(3000)
    rows, distances = searched(x, groups, 5, exact=False)
    expected, _ = brute_force(x, groups, 5)
    assert (groups[rows] != groups[:, None]).all()
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(rows.tolist(), expected.tolist(), strict=True)])
    assert recall > 0.9
    assert (np.diff(distances, axis=1) >= 0).all()


def test_twins_are_at_distance_zero_and_missing_neighbours_are_marked():
    x = np.eye(4, dtype=np.float32)[[0, 1, 0]]
    rows, distances = searched(x, np.array([0, 0, 1]), 3, exact=True)
    assert rows.tolist() == [[2, -1, -1], [2, -1, -1], [0, 1, -1]]
    assert distances[0, 0] == 0
    assert distances[2, 1] == pytest.approx(2**0.5)
    assert np.isinf(distances[:, 2]).all()


def test_an_index_holds_the_nearest_frames_of_other_cases_and_the_distance_to_the_frame_before(tmp_path):
    catalog = make_catalog(tmp_path, 5, 6, parts=2)
    built = build(catalog, k=3)
    table = NeighbourTable.open(catalog, "alike")
    x = features(catalog)
    video = catalog.frames["video"]
    expected, apart = brute_force(x, video // 2, 3)
    assert (table.rows == expected).all()
    np.testing.assert_allclose(table.distances, apart, atol=1e-5)
    before = np.linalg.norm(np.diff(x, axis=0), axis=1)
    inside = np.append(False, np.diff(video) == 0)
    np.testing.assert_allclose(table.reference[inside], before[inside[1:]], atol=1e-5)
    assert np.isnan(table.reference[~inside]).all()
    assert (built.frames, built.bad, built.search) == (30, 0, "exact")
    assert built.near == (apart[inside, 0] < 3 * before[inside[1:]]).sum()
    assert table.about["backbone_fingerprint"] == str(fingerprint(load_backbone(NET)))
    assert table.about["composition"]["curate"] == "none"


def test_workers_and_batches_change_nothing(tmp_path):
    catalog = make_catalog(tmp_path, 3, 6)
    build(catalog)
    build(catalog, name="again", workers=2, batch=5)
    one, other = (NeighbourTable.open(catalog, name) for name in ("alike", "again"))
    assert (one.rows == other.rows).all()
    np.testing.assert_allclose(one.distances, other.distances, atol=1e-6)


def test_only_frames_of_the_composition_are_embedded(tmp_path):
    catalog = make_catalog(tmp_path, 3, 10, fps=2)
    build(catalog, composition=Composition(curate="none", fps=1, exclude=[{"case": ["case01"]}]))
    table = NeighbourTable.open(catalog, "alike")
    chosen = [*range(0, 10, 2), *range(20, 30, 2)]
    assert np.flatnonzero((table.rows >= 0).any(1)).tolist() == chosen
    assert set(table.rows[chosen].ravel().tolist()) <= set(chosen)
    # The frame before it is the one before it at this rate.
    x = features(catalog)
    assert table.reference[4] == pytest.approx(np.linalg.norm(x[4] - x[2]), abs=1e-5)


def test_a_bad_frame_is_left_out_and_counted(tmp_path):
    catalog = make_catalog(tmp_path, 3, 4)
    with catalog.shard_paths[1].open("r+b") as file:
        file.seek(int(catalog.frames["offset"][5]) + 100)
        file.write(bytes(20))
    built = build(catalog, batch=1)
    table = NeighbourTable.open(catalog, "alike")
    assert (built.frames, built.bad) == (11, 1)
    assert (table.rows[5] == -1).all()
    assert 5 not in table.rows
    assert table.reference[6] == pytest.approx(np.linalg.norm(np.subtract(*features(catalog, [6, 4]))), abs=1e-5)


def test_a_missing_shard_and_a_single_case_are_said_in_words(tmp_path):
    catalog = make_catalog(tmp_path, 3, 4)
    with pytest.raises(ConfigError, match="all frames are of one case"):
        build(catalog, composition=Composition(curate="none", include=[{"case": ["case00"]}]))
    catalog.shard_paths[2].unlink()
    with pytest.raises(TrocarError, match="is missing; restore it or run `trocar ingest`"):
        build(catalog, workers=1)


def test_the_command_builds_an_index_that_a_run_can_use(tmp_path, capsys):
    catalog = make_catalog(tmp_path / "shards", 4, 6)
    flags = ["--backbone", NET, "--name", "alike", "--size", "32", "--workers", "0", "--k", "2"]
    assert main(["neighbours", str(tmp_path / "shards"), *flags, "composition.curate=none"]) == 0
    said = capsys.readouterr().out
    assert "of 24 frames have a neighbour nearer than 3 x the frame before them" in said
    about = json.loads((tmp_path / "shards/catalog/neighbours/alike/index.json").read_text())
    assert (about["k"], about["backbone"]) == (2, NET)
    selection = Composition(curate="none").resolve(catalog)
    rule = resolve_neighbours(NeighbourSource(source="knn", index="alike", factor=100), catalog, selection, 0)
    table = NeighbourTable.open(catalog, "alike")
    assert rule.candidates(4)[:2] == table.rows[4].tolist()
    assert rule.identity()["index_fingerprint"] == about["sha256"][:16]
    assert main(["neighbours", str(tmp_path / "shards"), *flags, "composition.fsp=1"]) == 2
