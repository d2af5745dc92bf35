"""Python's collector runs at fixed steps, and is back afterwards."""

import gc

import pytest

from trocar.ssl.engine.trainer import COLLECT_EVERY, collected_at_fixed_steps


def test_collections_come_after_multiples_of_a_number_of_steps_and_not_in_between(monkeypatch):
    assert gc.isenabled()
    with collected_at_fixed_steps() as collect:
        assert not gc.isenabled()
        steps, collected = [], gc.collect
        for done in range(1, 2 * COLLECT_EVERY + 2):
            monkeypatch.setattr(gc, "collect", lambda done=done: steps.append(done))
            collect(done)
        monkeypatch.setattr(gc, "collect", collected)
    assert steps == [COLLECT_EVERY, 2 * COLLECT_EVERY]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_collector_is_back_after_an_error():
    with pytest.raises(ZeroDivisionError), collected_at_fixed_steps():
        _ = 1 / 0
    assert gc.isenabled()
