"""A batch that doesn't come: said early, an error late."""

import logging
import multiprocessing
import time

import pytest

from trocar.data.loading import workers
from trocar.data.loading.workers import Patience
from trocar.errors import TrocarError


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])

    def pass_s(seconds):
        now[0] += seconds

    return pass_s


def test_a_warning_names_step_and_rank_after_a_minute_and_again_when_the_wait_has_doubled(clock, caplog):
    waiting = Patience(7, 3, 3600)
    waiting.came()
    waiting.asked_for()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            clock(5)
            waiting.warn()
            waiting.check()
        said = [record.message for record in caplog.records]
    assert said == [f"no batch for {s} s, step 8, rank 3" for s in (60, 120, 240, 480)]


def test_each_batch_is_waited_for_anew(clock, caplog):
    waiting = Patience(0, 0, 100)
    for _ in range(10):
        waiting.asked_for()
        for _ in range(11):
            clock(5)
            waiting.warn()
            waiting.check()
        waiting.came()
        clock(300)  # the step itself is computed meanwhile
        waiting.warn()
        waiting.check()
    assert caplog.records == []
    assert waiting.step == 10


def test_only_the_limit_ends_it(clock):
    waiting = Patience(4, 1, 100)
    waiting.asked_for()
    for _ in range(11):
        clock(9)
        waiting.check()
    assert not waiting.is_over
    clock(1)
    with pytest.raises(TrocarError, match=r"no batch for 100 s \(run.data_timeout_s = 100\), step 4, rank 1"):
        waiting.check()
    assert waiting.is_over
    forever = Patience(0, 0, None)
    forever.asked_for()
    for _ in range(1000):
        clock(10)
        forever.check()


def test_a_job_that_was_suspended_has_waited_for_nothing(clock):
    waiting = Patience(0, 0, 1800)
    waiting.asked_for()
    clock(5)
    waiting.check()
    clock(8 * 3600)
    waiting.check()
    assert not waiting.is_over


def test_workers_that_hang_are_gone_when_the_reader_ends(monkeypatch):
    def make(number):
        if number > 1:
            time.sleep(120)  # storage that doesn't answer
        return number

    monkeypatch.setattr(workers, "DEATH_S", 0.2)
    items = workers.from_workers(make, range(8), 2, pin=False, patience=Patience(0, 0, None), if_it_dies="")
    assert [next(items), next(items)] == [0, 1]
    started = [child for child in multiprocessing.active_children() if "Process" in child.name]
    assert len(started) == 2
    items.close()
    assert not [child for child in started if child.is_alive()]
