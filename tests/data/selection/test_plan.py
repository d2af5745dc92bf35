import numpy as np
import pytest

from trocar.data.selection.plan import PERIOD, Plan
from trocar.data.selection.selection import Pool, RowRuns, Selection
from trocar.errors import ConfigError


def selection(sizes, shares=None):
    starts = np.cumsum([0, *sizes[:-1]])
    shares = shares or [1 / len(sizes)] * len(sizes)
    pools = tuple(
        Pool(f"s{i}", RowRuns(*(np.array([v], np.int64) for v in (start, 1, size, size))), share)
        for i, (start, size, share) in enumerate(zip(starts, sizes, shares, strict=True))
    )
    return Selection(pools, {f"s{i}": n for i, n in enumerate(sizes)}, (), "f")


def stream(plan, steps):
    return np.concatenate([plan.rows(step) for step in range(steps)])


@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_every_row_is_drawn_once_per_epoch_in_a_new_order(shuffle):
    plan = Plan(selection([1000]), 50, seed=3, shuffle=shuffle)
    rows = stream(plan, 40)
    first, second = rows[:1000], rows[1000:]
    assert (np.sort(first) == np.arange(1000)).all()
    assert (np.sort(second) == np.arange(1000)).all()
    assert (first == second).mean() < 0.02


def test_the_stream_is_independent_of_the_batch_size():
    whole = stream(Plan(selection([300, 700]), 40, seed=1), 25)
    halves = stream(Plan(selection([300, 700]), 20, seed=1), 50)
    assert (whole == halves).all()


def test_shares_are_exact_over_a_period_and_even_within():
    plan = Plan(selection([5000, 5000, 5000], [0.5, 0.3, 0.2]), 64, seed=0)
    source = stream(plan, PERIOD // 64) // 5000
    assert np.bincount(source).tolist() == [2048, 1229, 819]
    for start in range(0, PERIOD, 512):
        part = np.bincount(source[start : start + 512], minlength=3)
        assert np.abs(part - 512 * np.array([0.5, 0.3, 0.2])).max() <= 2


def test_epochs_say_how_often_each_source_is_seen():
    plan = Plan(selection([1000, 4000], [0.5, 0.5]), 100, seed=0)
    assert plan.epochs(80) == {"s0": 4.0, "s1": 1.0}


def test_another_seed_is_another_order():
    a, b = (stream(Plan(selection([1000]), 50, seed), 20) for seed in (0, 1))
    assert (a == b).mean() < 0.02


def test_window_shuffle_reads_few_places_of_the_data_at_a_time():
    n, batch = 1_000_000, 64
    window = stream(Plan(selection([n]), batch, 0, "window"), 32)
    spread = stream(Plan(selection([n]), batch, 0, "global"), 32)
    # 32 batches lie within one window of 64: at most 64 x 64 / 256 blocks of 256 rows, one seam each
    assert np.unique(window // 256).size <= 2 * 64 * 64 // 256
    assert np.unique(spread // 256).size > 1000


def test_replacements_come_from_the_same_source_and_are_repeatable():
    plan = Plan(selection([100, 100], [0.5, 0.5]), 10, seed=0)
    for slot, row in enumerate(plan.rows(4).tolist()):
        stands_in = [plan.replacement(4, slot, attempt) for attempt in range(5)]
        assert {r // 100 for r in stands_in} == {row // 100}
        assert len(set(stands_in)) > 1
        assert stands_in == [plan.replacement(4, slot, attempt) for attempt in range(5)]


def test_a_source_too_small_for_its_share_is_refused_with_the_largest_it_can_carry():
    with pytest.raises(ConfigError, match=r"'s0' has 10 frames.*largest share it can carry is 0\.156"):
        Plan(selection([10, 1000], [0.5, 0.5]), 64, seed=0)


def test_a_batch_of_more_frames_than_there_are_is_refused_with_what_would_do():
    with pytest.raises(ConfigError, match=r"train.batch 64 is more than the 10 frames there are.*at most 10"):
        Plan(selection([10]), 64, seed=0)
    assert sorted(Plan(selection([10]), 10, seed=0).rows(0).tolist()) == list(range(10))


def test_a_source_that_would_never_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="would never be drawn"):
        Plan(selection([1000, 1000], [1 - 1e-5, 1e-5]), 8, seed=0)


def test_a_batch_never_holds_a_row_twice_within_an_epoch():
    plan = Plan(selection([64, 640], [0.25, 0.75]), 64, seed=0)
    assert all(np.unique(plan.rows(s)).size == 64 for s in range(4))
