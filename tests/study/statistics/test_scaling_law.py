"""Power laws recovered from points that are one, and refused where they aren't."""

import json

import numpy as np
import pytest
from statistics_factory import scored

from trocar.errors import TrocarError
from trocar.study.statistics.scaling import Scale, power_law, scaling

SIZES = np.array([10, 20, 40, 80, 160])


def nested(sizes=SIZES, seeds=2, share=0.5):
    return [
        Scale(
            f"n{size}",
            tuple(frozenset(f"{seed}-{i}" for i in range(size)) for seed in range(seeds)),
            {"a": share * size, "b": (1 - share) * size},
        )
        for size in sizes
    ]


def points(heights, spread=0.0, case_error=0.0, sizes=SIZES):
    return scored({f"n{size}": [h - spread, h + spread] for size, h in zip(sizes, heights, strict=True)}, case_error)


@pytest.mark.parametrize(("limit", "gain", "exponent"), [(0.9, 0.4, 0.5), (0.8, 0.1, 1.3), (5.0, -3.0, 0.25)])
def test_a_power_law_is_recovered_from_its_points(limit, gain, exponent):
    heights = limit - gain * (SIZES / 10) ** -exponent
    fit = power_law(SIZES.astype(float), heights)
    assert fit[:3] == pytest.approx((limit, gain, exponent), rel=1e-4)
    assert not fit.at_end
    law = scaling(points(heights), nested()).law
    assert law is not None
    assert law.exponent == pytest.approx((exponent,) * 3, rel=1e-4)
    assert law.misfit == pytest.approx(0, abs=1e-6)
    assert law.predict(320) == pytest.approx(limit - gain * 32**-exponent)
    assert json.dumps(law.to_json(), allow_nan=False)


def test_intervals_hold_the_truth_and_follow_the_scatter():
    heights = 0.9 - 0.4 * (SIZES / 10) ** -0.5
    noisy = heights + 0.002 * np.array([1, -1, 1, -1, 1])
    tight, wide = (scaling(points(noisy, spread, 0.01), nested()).law for spread in (0.002, 0.02))
    assert tight is not None
    assert wide is not None
    assert tight.limit[1] < 0.9 < tight.limit[2]
    assert tight.exponent[1] < 0.5 < tight.exponent[2]
    assert wide.exponent[2] - wide.exponent[1] > 2 * (tight.exponent[2] - tight.exponent[1])
    assert wide.at_end > tight.at_end
    assert all(low <= middle <= high for low, middle, high in zip(tight.low, tight.curve, tight.high, strict=True))


def test_a_curve_is_read_at_most_twice_beyond_the_largest_size():
    law = scaling(points(0.9 - 0.4 * (SIZES / 10) ** -0.5), nested()).law
    assert law is not None
    assert law.at[0] == pytest.approx(10)
    assert law.at[-1] == pytest.approx(320)
    for size in (321, 9):
        with pytest.raises(TrocarError, match="at most 2 times beyond"):
            law.predict(size)


def test_four_sizes_have_points_and_no_curve():
    found = scaling(points([0.1, 0.2, 0.25, 0.27], sizes=SIZES[:4]), nested(SIZES[:4])[::-1])
    assert found.law is None
    assert found.reason == "no curve: 4 sizes, a power law needs 5"
    assert found.sizes == (10, 20, 40, 80)
    assert [point.value for point in found.points] == pytest.approx([0.1, 0.2, 0.25, 0.27])


def test_sizes_that_are_not_nested_or_of_another_mixture_have_no_curve():
    heights = 0.9 - 0.4 * (SIZES / 10) ** -0.5
    apart, mixed, fewer = nested(), nested(), nested()
    apart[1] = Scale("n20", tuple(frozenset(f"other-{i}" for i in range(20)) for _ in range(2)), apart[1].amounts)
    mixed[4] = Scale("n160", mixed[4].cases, {"a": 40.0, "b": 120.0})
    fewer[2] = Scale("n40", fewer[2].cases[:1], fewer[2].amounts)
    for scales, words in [
        (apart, "the cases of n10 are not all among those of n20"),
        (mixed, "n80 and n160 are different mixtures"),
        (fewer, "n20 and n40 have different numbers of seeds"),
    ]:
        found = scaling(points(heights), scales)
        assert found.law is None
        assert found.reason == f"no curve: {words}"


@pytest.mark.parametrize("heights", [[0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1, 0.9]])
def test_points_that_level_off_nowhere_have_no_curve(heights):
    found = scaling(points(heights), nested())
    assert found.law is None
    assert found.reason == "no curve: the points don't bend as a power law does"


def test_scaling_needs_a_size():
    with pytest.raises(TrocarError, match="at least one size"):
        scaling(points([0.1], sizes=[10]), [])
