import numpy as np
import pytest

from trocar.data.selection.selection import Pool, RowRuns, hash_runs


def rows_of(runs):
    return runs.rows(np.arange(len(runs))).tolist()


def test_runs_reproduce_any_sorted_rows():
    rng = np.random.default_rng(0)
    for keep in (0.1, 0.5, 0.9, 1.0):
        rows = np.flatnonzero(rng.random(500) < keep).astype(np.int64) + 17
        assert rows_of(RowRuns.of_video(rows)) == rows.tolist()


def test_a_constant_stride_is_one_run():
    runs = RowRuns.of_video(np.arange(5, 500, 3))
    assert runs.start.size == 1
    assert runs.stride.tolist() == [3]


def test_thinning_takes_exactly_as_many_evenly_spread():
    runs = RowRuns.concatenate([RowRuns.of_video(np.arange(0, 700)), RowRuns.of_video(np.arange(1000, 1300))])
    thin = runs.thinned(100)
    rows = np.array(rows_of(thin))
    assert len(thin) == 100
    assert (rows < 700).sum() == 70
    assert np.diff(rows[:70]).max() <= 11
    assert set(rows.tolist()) <= set(rows_of(runs))


def test_thinning_many_tiny_runs_favours_no_end():
    runs = RowRuns.of_video(np.flatnonzero(np.random.default_rng(0).random(4000) < 0.5).astype(np.int64))
    rows = np.array(rows_of(runs.thinned(500)))
    assert rows.size == 500
    assert abs((rows < 2000).sum() - 250) < 25


def test_thinning_to_more_than_there_is_keeps_everything():
    runs = RowRuns.of_video(np.arange(10))
    assert rows_of(runs.thinned(50)) == list(range(10))


def test_a_video_with_scattered_gaps_takes_a_bit_per_row_and_not_a_run_per_gap():
    keep = np.random.default_rng(0).random(100_000) < 0.96
    runs = RowRuns.of_video(np.flatnonzero(keep).astype(np.int64) + 17)
    assert runs.start.size == 1
    assert runs.nbytes < 100_000 * 9 / 64 + 130
    assert (runs.rows(np.arange(len(runs))) == np.flatnonzero(keep) + 17).all()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_runs_do_not_hold_on_to_the_rows_they_were_made_from(share):
    rows = np.flatnonzero(np.random.default_rng(0).random(4000) < share).astype(np.int64)
    runs = RowRuns.of_video(rows)
    columns = (runs.start, runs.stride, runs.have, runs.take, runs.at, runs.mask, runs.ends)
    assert not any(np.may_share_memory(rows, column) for column in columns)


def test_a_few_gaps_stay_runs():
    runs = RowRuns.of_video(np.setdiff1d(np.arange(3600), [100, 2000]))
    assert runs.mask.size == 0
    assert runs.start.tolist() == [0, 101, 2001]


def test_a_mask_covers_the_grid_of_the_rows_and_not_the_rows_between():
    rows = 25 * np.flatnonzero(np.random.default_rng(0).random(8000) < 0.9).astype(np.int64)
    runs = RowRuns.of_video(rows)
    assert runs.stride.tolist() == [25]
    assert runs.mask.size <= 1024
    assert rows_of(runs) == rows.tolist()


def test_videos_with_and_without_masks_are_joined_in_order_and_drawn_in_any_order():
    rng = np.random.default_rng(1)
    videos = [
        np.flatnonzero(rng.random(rng.integers(1, 3000)) < share).astype(np.int64) + 10_000 * k
        for k, share in enumerate([0.5, 1.0, 0.9, 0.01, 1.0, 0.7])
    ]
    runs = RowRuns.concatenate([RowRuns.of_video(rows) for rows in videos])
    assert 0 < (runs.at >= 0).sum() < runs.at.size
    joined = np.concatenate(videos)
    index = rng.integers(0, joined.size, 5000)
    assert (runs.rows(index) == joined[index]).all()


@pytest.mark.parametrize("total", [1, 3, 500, 3999])
def test_thinning_a_masked_video_spreads_over_its_kept_rows(total):
    rows = np.flatnonzero(np.random.default_rng(2).random(9000) < 0.5).astype(np.int64)
    parts = [RowRuns.of_video(rows), RowRuns.of_video(rows + 9000)]
    thin = RowRuns.concatenate(parts).thinned(total)
    chosen = thin.rows(np.arange(len(thin)))
    assert chosen.size == total
    places = np.searchsorted(np.concatenate([rows, rows + 9000]), chosen)
    assert (np.diff(places) >= 1).all()
    assert set(chosen.tolist()) <= {*rows.tolist(), *(rows + 9000).tolist()}
    if total == 500:
        assert np.diff(places).max() <= 2 * rows.size * 2 / total


def test_the_fingerprint_sees_every_masked_row_and_nothing_of_where_the_video_lies():
    def hashed(rows, first):
        pool = Pool("all", RowRuns.of_video(rows + first), 1.0)
        return hash_runs([("v", "content")], (pool,), np.array([first]))

    rows = np.flatnonzero(np.random.default_rng(3).random(4000) < 0.8).astype(np.int64)
    other = rows.copy()
    gap = int(np.flatnonzero(np.diff(rows) == 2)[0])
    other[gap] += 1  # the same number of rows, one of them the next frame
    assert hashed(rows, 0) == hashed(rows, 123_456)
    assert hashed(rows, 0) != hashed(other, 0)
