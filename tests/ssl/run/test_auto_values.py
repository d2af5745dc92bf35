"""What `auto` stands for at a given amount of data, and which given values are warned of."""

import pytest

from trocar.core.config import Config
from trocar.ssl.engine.optimizer import OptimConfig, Schedule
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, choose, known, warning


def data(frames=1000, batch=8, total=100):
    return DataSize(frames, batch, total, max(1, frames // batch))


@pytest.mark.parametrize(
    ("frames", "suits"),
    [(1, 64), (256, 64), (511, 64), (512, 128), (1000, 128), (4096, 1024), (10**6, 65536), (10**9, 65536)],
)
def test_prototypes_are_the_power_of_two_within_a_quarter_of_the_frames(frames, suits):
    assert auto_values.prototypes("k", "auto", data(frames)) == Advice("k", "auto", suits)


def test_prototypes_have_a_published_most():
    assert auto_values.prototypes("k", "auto", data(10**6), most=3000).suits == 3000
    assert auto_values.prototypes("k", "auto", data(1000), most=3000).suits == 128


def test_more_prototypes_than_frames_are_warned_of_with_ln_k():
    assert auto_values.prototypes("k", 1000, data(1000)).wrong == ""
    assert "1001 prototypes for 1000 frames" in auto_values.prototypes("k", 1001, data(1000)).wrong
    assert "ln K = 11.09" in auto_values.prototypes("k", 65536, data(1000)).wrong


@pytest.mark.parametrize(
    ("frames", "batch", "suits"),
    [(1000, 8, 496), (1000, 64, 448), (10, 8, 8), (10**6, 256, 65536), (10**6, 100, 65500)],
)
def test_a_queue_is_whole_batches_within_half_of_the_frames(frames, batch, suits):
    assert auto_values.queue("q", "auto", data(frames, batch)).suits == suits
    assert suits % batch == 0


def test_a_queue_that_holds_frames_several_times_is_warned_of():
    assert auto_values.queue("q", 1000, data(1000)).wrong == ""
    assert "1000 frames 65.5 times" in auto_values.queue("q", 65536, data(1000)).wrong
    assert auto_values.queue("q", 0, data(1000)).wrong == ""
    assert auto_values.queue("q", "auto", data(10**6, 256), most=3840).suits == 3840


@pytest.mark.parametrize(
    ("total", "suits"), [(5, 0.9), (10, 0.9), (99, 0.9), (100, 0.99), (249, 0.99), (250, 0.996), (10**6, 0.996)]
)
def test_a_teacher_averages_over_no_more_than_the_run(total, suits):
    assert auto_values.momentum("m", "auto", data(total=total), published=0.996).suits == suits


def test_a_teacher_that_would_hardly_move_is_warned_of():
    assert "over 250 steps, the run has 100" in auto_values.momentum("m", 0.996, data(total=100), published=0.996).wrong
    assert auto_values.momentum("m", 0.996, data(total=250), published=0.996).wrong == ""
    assert auto_values.momentum("m", 1.0, data(total=100), published=0.996).wrong == ""  # still on purpose


def test_a_short_run_gets_a_sharper_teacher():
    assert auto_values.teacher_temperature("t", "auto", data(total=999)).suits == 0.02
    assert auto_values.teacher_temperature("t", "auto", data(total=1000)).suits == 0.04
    assert "999 steps" in auto_values.teacher_temperature("t", 0.04, data(total=999)).wrong
    assert auto_values.teacher_temperature("t", 0.04, data(total=1000)).wrong == ""
    assert auto_values.teacher_temperature("t", 0.02, data(total=999)).wrong == ""


def test_a_part_that_is_still_for_most_of_the_run_is_warned_of():
    assert auto_values.at_first("f", "1 epoch", 50, data(total=100)) == Advice("f", "1 epoch", "10 steps")
    assert "51 of the 100 steps" in auto_values.at_first("f", "51 steps", 51, data(total=100)).wrong


@pytest.mark.parametrize(("warmup", "warned"), [("5 epochs", False), ("6 epochs", True), ("auto", False)])
def test_a_warm_up_of_most_of_the_run_is_warned_of(warmup, warned):
    schedule = Schedule(OptimConfig(warmup=warmup), batch=8, total=100, epoch_steps=10)
    expected = ["optim.warmup=6 epochs: that is 60 of the 100 steps; optim.warmup=10 steps would suit"]
    assert schedule.warnings(DataSize(80, 8, 100, 10)) == (expected if warned else [])


@pytest.mark.parametrize("frames", [1, 50, 1000, 10**5])
@pytest.mark.parametrize("batch", [1, 8, 256])
@pytest.mark.parametrize("total", [2, 100, 10**5])
def test_what_suits_is_never_warned_of(frames, batch, total):
    size = data(frames, batch, total)
    for give in (
        auto_values.prototypes,
        auto_values.queue,
        auto_values.teacher_temperature,
        lambda key, given, size: auto_values.momentum(key, given, size, published=0.996),
    ):
        assert give("x", give("x", "auto", size).suits, size).wrong == ""


class Inner(Config):
    k: int | Auto = "auto"


class Outer(Config):
    inner: Inner = Inner()
    q: int | Auto = "auto"


def test_only_auto_is_replaced_and_the_configuration_stays_as_it_was():
    given = Outer(q=3)
    resolved = choose(given, [Advice("inner.k", given.inner.k, 64), Advice("q", given.q, 9)])
    assert resolved == Outer(inner=Inner(k=64), q=3)
    assert given.inner.k == "auto"


def test_auto_is_no_number_before_it_is_resolved():
    assert known(3) == 3
    with pytest.raises(ValueError, match="resolved"):
        known("auto")


def test_a_warning_names_the_value_the_reason_and_what_would_suit():
    line = warning("method", Advice("head.k", 99, 64, "too many"))
    assert line == "method.head.k=99: too many; method.head.k=64 would suit"
