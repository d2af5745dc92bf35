"""Images per second and the two kinds of waiting, over an interval of steps."""

from types import SimpleNamespace

import pytest

from trocar.ssl.engine.health import Speed


class Event:
    """Of a device's timing events, which moment it stands for, in ms."""

    def __init__(self, at_ms):
        self.at_ms = at_ms

    def elapsed_time(self, other):
        return other.at_ms - self.at_ms


def batch(images, handed=None):
    return SimpleNamespace(rows=range(images), handed=handed)


def run_through(batches, wait_s, step_s, ranks=1):
    """The values of an interval in which each batch is waited for and then computed with."""
    now = [0.0]
    speed = Speed(ranks, clock=lambda: now[0])

    def source():
        for item in batches:
            now[0] += wait_s
            yield item

    for _ in speed.counted(source()):
        now[0] += step_s
    return speed, speed.values()


def test_images_of_all_ranks_and_steps_over_the_whole_time():
    _, values = run_through([batch(8)] * 5, wait_s=0.5, step_s=1.5, ranks=4)
    assert values == pytest.approx({"images_per_s": 8 * 4 / 2, "data_wait": 0.25})


def test_waiting_of_the_device_is_the_time_between_the_two_events_of_each_batch():
    handed = [(Event(0), Event(100)), (Event(2000), Event(2300)), (Event(4000), Event(4000))]
    _, values = run_through([batch(8, pair) for pair in handed], wait_s=0, step_s=2)
    assert values == pytest.approx({"images_per_s": 4, "data_wait": 0, "device_wait": 0.4 / 6})


def test_a_new_interval_knows_nothing_of_the_one_before():
    speed, before = run_through([batch(8, (Event(0), Event(500)))], wait_s=1, step_s=1)
    assert before["device_wait"] == pytest.approx(0.25)
    speed.restart()
    assert speed.values() == {"images_per_s": 0, "data_wait": 0}
