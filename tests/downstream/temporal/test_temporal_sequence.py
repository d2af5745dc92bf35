"""What a case must look like, and the standardisation."""

from dataclasses import replace

import numpy as np
import pytest
from temporal_factory import before_and_after

from trocar.downstream.temporal.head import Sequence, check_features, check_targets, fit_standard
from trocar.errors import TrocarError


def test_features_have_mean_0_and_deviation_1_over_all_training_frames():
    cases = before_and_after(4)
    standard = fit_standard(cases)
    pooled = np.concatenate([standard(s.features) for s in cases])
    np.testing.assert_allclose(pooled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(pooled.std(0), 1, atol=1e-5)


def test_a_constant_dimension_becomes_0():
    features = np.full((50, 2), 0.1, dtype=np.float32)
    features[:, 1] = np.arange(50)
    sequence = Sequence("a", features, np.zeros(50, np.int64), np.arange(50.0))
    assert fit_standard([sequence])(features)[:, 0].tolist() == [0.0] * 50


def test_a_float16_cache_is_summed_without_overflow():
    features = np.linspace(100, 200, 4000, dtype=np.float16)[:, None]
    sequence = Sequence("a", features, np.zeros(4000, np.int64), np.arange(4000.0))
    found = fit_standard([sequence])(features)
    assert found.dtype == np.float32
    assert abs(found.mean()) < 1e-3
    assert found.std() == pytest.approx(1, abs=1e-3)


def test_frames_out_of_order_are_refused():
    sequence = before_and_after(1)[0]
    times = sequence.time_s.copy()
    times[4] = times[3]
    with pytest.raises(TrocarError, match=r"frame 4 \(t = 3 s\) is not later"):
        check_features(replace(sequence, time_s=times))


def test_a_gap_in_time_is_allowed():
    sequence = before_and_after(1)[0]
    check_features(replace(sequence, time_s=sequence.time_s + 100 * (sequence.time_s > 5)))


@pytest.mark.parametrize("features", [np.zeros((0, 4), np.float32), np.zeros(5, np.float32)])
def test_features_of_another_shape_are_refused(features):
    with pytest.raises(TrocarError, match=r"expected \[frames, dimensions\]"):
        check_features(Sequence("a", features, np.zeros(5, np.int64), np.arange(5.0)))


def test_times_of_another_length_are_refused():
    with pytest.raises(TrocarError, match="times of shape"):
        check_features(replace(before_and_after(1)[0], time_s=np.arange(3.0)))


def test_targets_of_the_wrong_shape_or_range_are_refused():
    sequence = before_and_after(1)[0]
    with pytest.raises(TrocarError, match="a target is 2, the largest allowed is 1"):
        check_targets(sequence, "multiclass", 2)
    with pytest.raises(TrocarError, match=r"expected .* for multilabel labels"):
        check_targets(sequence, "multilabel", 3)
    with pytest.raises(TrocarError, match="a target is 2, the largest allowed is 1"):
        check_targets(replace(sequence, targets=np.full((len(sequence), 3), 2)), "multilabel", 3)
    check_targets(sequence, "multiclass", 3)
