import numpy as np
import pytest
from data_factory import make_catalog

from trocar.core.config import validate
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition, VideoFilter
from trocar.data.selection.neighbours import (
    NeighbourSource,
    NeighbourTable,
    index_names,
    resolve_neighbours,
    write_table,
)
from trocar.errors import ConfigError, TrocarError


def rule(catalog, seed=0, composition=None, **config):
    selection = (composition or Composition(curate="none")).resolve(catalog)
    return resolve_neighbours(NeighbourSource(**config), catalog, selection, seed)


def with_times(catalog, times):
    """The catalog with other times of its frames."""
    catalog.frames = {**catalog.frames, "time_s": np.asarray(times, np.float32)}
    return catalog


def write(catalog, name="alike", rows=None, distances=None, reference=None, k=3, **about):
    n = len(catalog)
    rows = np.full((n, k), -1, np.int64) if rows is None else rows
    distances = np.full((n, k), 0.5, np.float32) if distances is None else distances
    reference = np.full(n, 0.4, np.float32) if reference is None else reference
    return write_table(catalog, name, rows, distances, reference, about)


@pytest.fixture(scope="module")
def seconds(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("one"), 3, 8, parts=3)


def test_offsets_are_seconds_at_any_frame_rate(tmp_path, seconds):
    assert rule(seconds).candidates(12) == [10, 11, 13, 14]
    fast = make_catalog(tmp_path, 2, 30, fps=5)
    assert rule(fast).candidates(45) == [35, 40, 50, 55]


def test_a_true_frame_rate_drifts_and_the_nearest_frame_is_taken(tmp_path):
    # Every 25th frame of 24.975 frames per second, then every 5th: off the grid by at most a frame of the video.
    slow = with_times(make_catalog(tmp_path / "a", 1, 40), np.arange(40) * 25 / 24.975)
    assert rule(slow).candidates(30) == [28, 29, 31, 32]
    fast = with_times(make_catalog(tmp_path / "b", 1, 40, fps=5), np.arange(40) * 5 / 24.975)
    assert rule(fast).candidates(20) == [10, 15, 25, 30]


def test_no_candidate_is_of_another_video_even_of_the_same_case(seconds):
    assert len(set(seconds.videos["case_id"].to_pylist())) == 1
    assert rule(seconds).candidates(8) == [9, 10]
    assert rule(seconds).candidates(9) == [8, 10, 11]
    assert rule(seconds).candidates(15) == [13, 14]


def test_a_gap_leaves_a_candidate_out(tmp_path):
    times = [0, 1, 2, 6, 7.4, 8.6, 20, 21]
    gaps = rule(with_times(make_catalog(tmp_path, 1, 8), times))
    assert gaps.candidates(2) == [0, 1]
    assert gaps.candidates(3) == [4]  # 7.4 is 0.4 from 7 and 0.6 from 8
    assert gaps.candidates(6) == [7]


def test_a_slow_video_has_only_what_is_within_half_its_interval(tmp_path):
    slow = make_catalog(tmp_path, 1, 8, fps=0.5)
    assert rule(slow).candidates(4) == [3, 5]  # both offsets of a side reach the same frame
    with pytest.raises(ConfigError, match=r"0.5 s never reach another frame of 1 .* give offsets of about 2 s"):
        rule(slow, offsets_s=(-0.5, 0.5))


def test_neighbours_may_be_frames_that_the_composition_thins_out(tmp_path):
    catalog = make_catalog(tmp_path, 1, 30, fps=5, flags=0.3)
    thinned = rule(catalog, composition=Composition(curate={"blurred": True}, fps=1), offsets_s=(0.2, 0.4))
    assert thinned.candidates(10) == [11, 12]


def test_a_draw_is_a_function_of_seed_step_slot_and_anchor_alone(seconds):
    slots, anchors = np.arange(8), np.array([3, 11, 12, 20, 4, 5, 18, 19])
    whole = rule(seconds).draw(7, slots, anchors, 2)
    order = [5, 0, 3]
    assert (rule(seconds).draw(7, slots[order], anchors[order], 2) == whole[order]).all()
    assert (rule(seconds).draw(8, slots, anchors, 2) != whole).any()
    assert (rule(seconds, seed=1).draw(7, slots, anchors, 2) != whole).any()
    assert rule(seconds).draw(7, slots, anchors, 2).tolist() == PINNED


PINNED = [[4, 2], [13, 12], [14, 13], [21, 19], [2, 5], [7, 3], [20, 19], [21, 20]]


def test_every_ordered_pair_of_candidates_is_drawn_alike(seconds):
    slots = np.arange(6000)
    drawn = rule(seconds).draw(0, slots, np.full(6000, 12), 2)
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(pairs) == 12  # 4 x 3: never the same twice
    assert set(drawn.ravel().tolist()) == {10, 11, 13, 14}
    # Binomial(6000, 1/12): 500 +- 21.4.
    assert abs(counts - 500).max() < 4.5 * 21.4


def test_too_few_candidates_come_round_again_and_none_is_the_anchor_itself(tmp_path):
    catalog = with_times(make_catalog(tmp_path, 1, 4), [0, 1, 50, 100])
    drawn = rule(catalog).draw(0, np.arange(3), np.array([0, 1, 2]), 3)
    assert drawn.tolist() == [[1, 1, 1], [0, 0, 0], [2, 2, 2]]
    edge = with_times(make_catalog(tmp_path / "edge", 1, 3), [0, 1, 2])
    first, second, third = rule(edge).draw(0, np.arange(1), np.array([0]), 3)[0]
    assert {first, second} == {1, 2}
    assert third == first


def test_the_index_comes_first_and_time_fills_up(seconds):
    rows = np.full((24, 3), -1, np.int64)
    rows[4] = [20, 16, 12]
    distances = np.full((24, 3), 0.5, np.float32)
    distances[4] = [0.3, 0.9, 1.19]
    reference = np.full(24, 0.4, np.float32)
    reference[5] = np.nan
    rows[5] = [20, 21, 22]
    write(seconds, "near", rows, distances, reference)
    near = rule(seconds, source="knn", index="near")
    assert near.candidates(4) == [20, 16, 12, 2]  # all are nearer than 3 x 0.4
    assert rule(seconds, source="knn", index="near", factor=2).candidates(4) == [20, 2, 3, 5]
    assert rule(seconds, source="knn", index="near", candidates=2).candidates(4) == [20, 16]
    assert near.candidates(5) == [3, 4, 6, 7]  # without a reference nothing is near
    assert near.candidates(3) == [1, 2, 4, 5]
    assert set(near.draw(0, np.arange(64), np.full(64, 4), 1).ravel().tolist()) == {20, 16, 12, 2}


def test_a_video_left_out_of_the_run_does_not_come_in_by_the_index(tmp_path):
    catalog = make_catalog(tmp_path, 3, 8)
    rows = np.tile(np.array([9, 17]), (24, 1))
    write(catalog, rows=rows, distances=np.full((24, 2), 0.1, np.float32))
    composition = Composition(curate="none", exclude=[VideoFilter(case=["case01"])])
    assert rule(catalog, source="knn", index="alike").candidates(4)[:2] == [9, 17]
    assert rule(catalog, composition=composition, source="knn", index="alike").candidates(4) == [17, 2, 3, 5]


def test_identity_names_the_rule_and_the_index_by_content(tmp_path):
    catalog = make_catalog(tmp_path, 2, 8)
    assert rule(catalog).identity() == {"source": "temporal", "offsets_s": [-2, -1, 1, 2]}
    write(catalog)
    first = rule(catalog, source="knn", index="alike").identity()
    assert (first["factor"], first["candidates"], first["index"]) == (3, 4, "alike")
    write(catalog, reference=np.full(16, 0.3, np.float32))
    second = rule(catalog, source="knn", index="alike").identity()
    assert second["index_fingerprint"] != first["index_fingerprint"]


def test_no_configuration_means_no_rule(seconds):
    assert resolve_neighbours(None, seconds, Composition().resolve(seconds), 0) is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"source": "knn"}, "source: knn, which needs one"),
        ({"index": "x"}, "goes with source: knn"),
        ({"offsets_s": [0, 1]}, "none of them 0"),
        ({"offsets_s": [1, 1]}, "different numbers of seconds"),
        ({"offsets_s": []}, "different numbers of seconds"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        validate(NeighbourSource, tree, "test")


def test_an_index_survives_writing_and_pickling(tmp_path):
    import pickle

    catalog = make_catalog(tmp_path, 2, 8)
    rows = np.arange(32).reshape(16, 2) % 16
    distances = np.linspace(0, 2, 32, dtype=np.float32).reshape(16, 2)
    reference = np.linspace(0, 1, 16, dtype=np.float32)
    write(catalog, "a.b-c", rows, distances, reference, backbone="x")
    table = pickle.loads(pickle.dumps(NeighbourTable.open(catalog, "a.b-c")))
    assert (table.rows == rows).all()
    assert (table.distances == distances).all()
    assert (table.reference == reference).all()
    assert table.about["backbone"] == "x"
    assert not table.rows.flags.writeable  # mapped, not copied


def test_an_index_is_replaced_and_leaves_nothing_of_the_old_one(tmp_path):
    catalog = make_catalog(tmp_path, 2, 8)
    folder = write(catalog)
    old = NeighbourTable.open(catalog, "alike")
    write(catalog, reference=np.full(16, 0.3, np.float32))
    assert old.reference[0] == np.float32(0.4)  # still mapped
    assert NeighbourTable.open(catalog, "alike").reference[0] == np.float32(0.3)
    assert len(list(folder.iterdir())) == 2


def test_a_missing_index_lists_those_that_exist(tmp_path):
    catalog = make_catalog(tmp_path, 2, 8)
    with pytest.raises(ConfigError, match=r"no neighbour index 'alik'.*it has: none. `trocar neighbours` makes one"):
        NeighbourTable.open(catalog, "alik")
    write(catalog)
    with pytest.raises(ConfigError, match=r"did you mean 'alike'.*it has: alike"):
        NeighbourTable.open(catalog, "alik")
    assert index_names(catalog) == ["alike"]
    with pytest.raises(ConfigError, match="expected letters"):
        NeighbourTable.open(catalog, "../alike")


def test_an_index_of_another_catalog_is_refused(tmp_path):
    catalog = make_catalog(tmp_path, 2, 8)
    write(catalog)
    grown = make_catalog(tmp_path, 3, 8)
    with pytest.raises(ConfigError, match="has changed since this index was made; build it again with `trocar neigh"):
        NeighbourTable.open(grown, "alike")
    # The same videos as parts of one case have the same fingerprint, but what another case is has changed.
    joined = make_catalog(tmp_path, 2, 8, parts=2)
    assert joined.fingerprint == catalog.fingerprint
    with pytest.raises(ConfigError, match="has changed"):
        NeighbourTable.open(joined, "alike")


def test_a_broken_index_is_named(tmp_path):
    catalog = make_catalog(tmp_path, 2, 8)
    folder = write(catalog)
    (table,) = folder.glob("*.arrow")
    table.write_bytes(table.read_bytes()[:-8])
    with pytest.raises(TrocarError, match=r"neighbours-.*build it again"):
        NeighbourTable.open(catalog, "alike")
    (folder / "index.json").write_text("{")
    with pytest.raises(TrocarError, match=r"index.json: cannot be read"):
        NeighbourTable.open(Catalog.open(tmp_path), "alike")
