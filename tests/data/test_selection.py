import numpy as np

from trocar.data.selection import Runs


def rows_of(runs):
    return runs.rows(np.arange(len(runs))).tolist()


def test_runs_reproduce_any_sorted_rows():
    rng = np.random.default_rng(0)
    for keep in (0.1, 0.5, 0.9, 1.0):
        rows = np.flatnonzero(rng.random(500) < keep).astype(np.int64) + 17
        assert rows_of(Runs.of_video(rows)) == rows.tolist()


def test_a_constant_stride_is_one_run():
    runs = Runs.of_video(np.arange(5, 500, 3))
    assert runs.start.size == 1
    assert runs.stride.tolist() == [3]


def test_thinning_takes_exactly_as_many_evenly_spread():
    runs = Runs.concatenate([Runs.of_video(np.arange(0, 700)), Runs.of_video(np.arange(1000, 1300))])
    thin = runs.thinned(100)
    rows = np.array(rows_of(thin))
    assert len(thin) == 100
    assert (rows < 700).sum() == 70
    assert np.diff(rows[:70]).max() <= 11
    assert set(rows.tolist()) <= set(rows_of(runs))


def test_thinning_many_tiny_runs_favours_no_end():
    runs = Runs.of_video(np.flatnonzero(np.random.default_rng(0).random(4000) < 0.5).astype(np.int64))
    rows = np.array(rows_of(runs.thinned(500)))
    assert rows.size == 500
    assert abs((rows < 2000).sum() - 250) < 25


def test_thinning_to_more_than_there_is_keeps_everything():
    runs = Runs.of_video(np.arange(10))
    assert rows_of(runs.thinned(50)) == list(range(10))
