"""Composition, plan and views over many drawn shapes: quotas, permutations, nesting, boxes, replacement, resume."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from data_factory import make_catalog
from hypothesis import given, settings
from hypothesis import strategies as st

from trocar.core.random import Permutation
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Amount, Composition, VideoFilter
from trocar.data.selection.plan import PERIOD, Plan, largest_remainder
from trocar.data.selection.selection import Pool, RowRuns, Selection, limit_repeats, nominal_shares
from trocar.data.views.recipe import Jitter, ViewGroup, ViewPlan, ViewRecipe
from trocar.errors import ConfigError

BOUNDED = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def selection(sizes: list[int], shares: list[float]) -> Selection:
    starts = np.cumsum([0, *sizes[:-1]])
    pools = tuple(
        Pool(f"s{i}", RowRuns(*(np.array([v], np.int64) for v in (start, 1, size, size))), share)
        for i, (start, size, share) in enumerate(zip(starts, sizes, shares, strict=True))
    )
    return Selection(pools, {f"s{i}": n for i, n in enumerate(sizes)}, (), "f")


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, list[int]]:
    batch = draw(st.integers(1, 48))
    sizes = draw(st.lists(st.integers(batch, 900), min_size=1, max_size=4))
    weights = draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes)))
    shares = [w / sum(weights) for w in weights]
    shuffle = draw(st.sampled_from(["global", "window"]))
    return Plan(selection(sizes, shares), batch, draw(st.integers(0, 2**31)), shuffle), sizes


def source_of(rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    return np.searchsorted(np.cumsum(sizes), rows, side="right")


@BOUNDED
@given(plans())
def test_a_period_holds_each_source_by_its_quota_and_runs_through_it_before_it_repeats(drawn) -> None:
    plan, sizes = drawn
    steps = -(-PERIOD // plan.batch)
    rows = np.concatenate([plan.rows(step) for step in range(steps)])[:PERIOD]
    source = source_of(rows, sizes)
    quotas = largest_remainder([pool.share for pool in plan.selection.pools], PERIOD)
    assert np.bincount(source, minlength=len(sizes)).tolist() == quotas.tolist()
    for number, size in enumerate(sizes):
        mine = rows[source == number]
        for epoch in range(len(mine) // size):
            assert len(set(mine[epoch * size : (epoch + 1) * size].tolist())) == size
        assert len(set(mine[len(mine) // size * size :].tolist())) == len(mine) % size


@BOUNDED
@given(plans(), st.integers(0, 10**9), st.integers(0, 2**31))
def test_a_step_follows_from_its_number_alone_so_a_resume_sees_the_same_frames(drawn, step: int, other: int) -> None:
    plan, _ = drawn
    again = Plan(plan.selection, plan.batch, plan.seed, plan.shuffle)
    again.rows(other)
    assert (plan.rows(step) == again.rows(step)).all()


@BOUNDED
@given(plans(), st.integers(0, 10**6), st.data())
def test_a_replacement_is_of_the_same_source_and_follows_from_its_place(drawn, step: int, data: st.DataObject) -> None:
    plan, sizes = drawn
    slot = data.draw(st.integers(0, plan.batch - 1))
    found = [plan.replacement(step, slot, attempt) for attempt in range(4)]
    assert found == [Plan(plan.selection, plan.batch, plan.seed).replacement(step, slot, a) for a in range(4)]
    wanted = source_of(plan.rows(step), sizes)[slot]
    assert (source_of(np.array(found), sizes) == wanted).all()


@BOUNDED
@given(st.integers(1, 5000), st.integers(0, 2**31))
def test_a_permutation_is_one_to_one(n: int, key: int) -> None:
    assert (np.sort(Permutation(n, key)(np.arange(n))) == np.arange(n)).all()


@BOUNDED
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.integers(1, 5000))
def test_quotas_sum_exactly_and_are_off_by_less_than_one(shares: list[float], total: int) -> None:
    quota = largest_remainder(shares, total)
    assert quota.sum() == total
    assert (np.abs(quota - np.array(shares) / sum(shares) * total) < 1).all()


sized = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**6), min_size=1)


@BOUNDED
@given(sized, st.sampled_from(["sqrt", "uniform"]), st.floats(0.1, 50), st.integers(1, 10**7))
def test_capped_shares_sum_to_one_and_no_source_passes_its_cap(sizes, weights, repeat: float, samples: int) -> None:
    shares = nominal_shares(sizes, weights)
    assert sum(shares.values()) == pytest.approx(1)
    if repeat * sum(sizes.values()) < samples:
        with pytest.raises(ConfigError, match="the sources fill"):
            limit_repeats(sizes, shares, repeat, samples)
        return
    capped, notes = limit_repeats(sizes, shares, repeat, samples)
    assert sum(capped.values()) == pytest.approx(1)
    assert all(share * samples <= repeat * sizes[s] * (1 + 1e-9) for s, share in capped.items())
    lowered = {s for s in sizes if capped[s] < shares[s] - 1e-9}
    assert lowered <= {note.partition(":")[0] for note in notes}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> list[Catalog]:
    """The same cases and more: 8, 12 and 16 videos of 6 frames, each a case, of two sources and three hospitals."""
    return [
        make_catalog(
            tmp_path_factory.mktemp("shards"),
            count,
            6,
            sources=("a", "b"),
            hospitals=("north", "south", "west"),
            size=(16, 16),
        )
        for count in (8, 12, 16)
    ]


def rows_of(chosen: Selection) -> list[int]:
    return sorted(np.concatenate([p.runs.rows(np.arange(len(p))) for p in chosen.pools]).tolist())


def names_of(catalog: Catalog, chosen: Selection) -> Counter[str]:
    """Frames per video: what a selection holds, whatever the rows are numbered."""
    return Counter(catalog.place(row)["video"] for row in rows_of(chosen))


@BOUNDED
@given(seed=st.integers(0, 2**31), few=st.integers(1, 4), per=st.sampled_from([[], ["source"]]))
def test_a_smaller_sample_is_nested_in_every_larger_one(grown, seed: int, few: int, per: list[str]) -> None:
    most = 8 if not per else 4
    chosen = [
        set(Composition(curate="none", sample_seed=seed, sample=Amount(cases=n, per=per)).resolve(grown[0]).cases)
        for n in range(few, most + 1)
    ]
    assert all(a < b for a, b in itertools.pairwise(chosen))


@BOUNDED
@given(seed=st.integers(0, 2**31), cases=st.integers(1, 8))
def test_growth_of_the_catalog_only_ever_pushes_cases_out_of_a_sample(grown, seed: int, cases: int) -> None:
    sample = Composition(curate="none", sample_seed=seed, sample=Amount(cases=cases))
    before, after = (set(sample.resolve(catalog).cases) for catalog in (grown[0], grown[2]))
    known = set(Composition(curate="none").resolve(grown[0]).cases)
    # A case that was there and not chosen is not chosen now: nothing but new cases may take a place.
    assert after & known <= before
    assert len(after) == cases


@BOUNDED
@given(seed=st.integers(0, 2**31), frames=st.integers(2, 48), hospital=st.sampled_from(["north", "south"]))
def test_a_selection_of_what_was_there_is_unmoved_by_what_came_later(grown, seed, frames: int, hospital: str) -> None:
    known = [case.partition("/")[2] for case in Composition(curate="none").resolve(grown[0]).cases]
    one = Composition(curate="none", sample_seed=seed, include=[VideoFilter(case=known)], sample=Amount(frames=frames))
    found = [one.resolve(catalog) for catalog in grown]
    assert len({chosen.fingerprint for chosen in found}) == 1
    assert all(names_of(c, chosen) == names_of(grown[0], found[0]) for c, chosen in zip(grown, found, strict=True))
    assert len(rows_of(found[0])) == frames


@BOUNDED
@given(weights=st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 100), min_size=1, max_size=2))
def test_weights_are_the_shares_or_are_refused(grown, weights: dict[str, float]) -> None:
    composition = Composition(curate="none", weights=weights)
    if set(weights) != {"a", "b"} or not any(weights.values()):
        with pytest.raises(ConfigError, match="every source needs a weight"):
            composition.resolve(grown[0])
        return
    shares = {pool.name: pool.share for pool in composition.resolve(grown[0]).pools}
    assert shares == pytest.approx({s: w / sum(weights.values()) for s, w in weights.items() if w > 0})


@st.composite
def recipes(draw: st.DrawFn) -> ViewRecipe:
    def group() -> ViewGroup:
        low = draw(st.floats(0.01, 1))
        aspect = draw(st.floats(0.1, 1))
        return ViewGroup(
            count=draw(st.integers(1, 3)),
            size=draw(st.integers(8, 256)),
            scale=(low, draw(st.floats(low, 1))),
            ratio=(aspect, draw(st.floats(aspect, 10))),
            jitter=Jitter(p=draw(st.floats(0, 1)), brightness=draw(st.floats(0, 3))),
            blur=draw(st.floats(0, 1)),
        )

    return ViewRecipe(groups={f"g{i}": group() for i in range(draw(st.integers(1, 2)))})


sides = st.integers(1, 9000)


@BOUNDED
@given(
    recipes(), st.integers(0, 2**31), st.integers(0, 10**9), st.lists(st.tuples(sides, sides), min_size=1, max_size=6)
)
def test_boxes_lie_inside_frames_of_any_size_and_follow_from_their_place(recipe, seed: int, step: int, frames) -> None:
    widths, heights = np.array(frames).T
    slots = np.arange(len(frames))
    whole = ViewPlan(recipe, seed).params(step, slots, widths, heights)
    top, left, h, w = np.moveaxis(whole.boxes, -1, 0)
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h <= heights[:, None]).all()
    assert (left + w <= widths[:, None]).all()
    assert np.isfinite(whole.colour).all()
    assert (whole.colour[..., :3] >= 0).all()
    last = ViewPlan(recipe, seed).params(step, slots[-1:], widths[-1:], heights[-1:])
    for name in ("boxes", "flip", "colour", "order", "grey", "sigma", "solarize", "mask_seed"):
        assert (getattr(whole, name)[-1:] == getattr(last, name)).all(), name


@BOUNDED
@given(recipes(), st.integers(0, 2**31), st.tuples(sides, sides), st.tuples(sides, sides))
def test_a_replaced_frame_gets_boxes_of_its_own_size_and_all_else_stays(recipe, seed: int, old, new) -> None:
    plan, slots = ViewPlan(recipe, seed), np.arange(3)
    widths, heights = np.full(3, old[0]), np.full(3, old[1])
    before = plan.params(7, slots, widths, heights)
    after = plan.params(7, slots, widths, heights)
    after.assign(1, plan.params(7, slots[1:2], np.array(new[:1]), np.array(new[1:])))
    top, left, h, w = np.moveaxis(after.boxes[1], -1, 0)
    assert (top + h <= new[1]).all()
    assert (left + w <= new[0]).all()
    assert (after.boxes[[0, 2]] == before.boxes[[0, 2]]).all()
    for name in ("flip", "colour", "order", "grey", "sigma", "solarize", "mask_seed"):
        assert (getattr(after, name) == getattr(before, name)).all(), name
