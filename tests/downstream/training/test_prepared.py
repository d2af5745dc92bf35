"""What worker processes compute does not depend on how many there are."""

import os
import signal

import pytest
import torch

from trocar.data.loading import workers
from trocar.data.loading.workers import worker_count
from trocar.downstream.training.batches import prepared
from trocar.errors import TrocarError


def item(number):
    torch.manual_seed(number)
    return number, torch.rand(3)


@pytest.mark.parametrize("count", [1, 2])
def test_items_come_in_order_and_are_the_same_for_every_number_of_processes(count):
    found = list(prepared(item, 7, count, pin=False))
    assert [number for number, _ in found] == list(range(7))
    assert all(torch.equal(values, item(number)[1]) for number, values in found)


def test_the_random_numbers_of_a_training_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    items = prepared(item, 3, 2, pin=False)
    next(items)
    assert torch.equal(torch.rand(2), expected)
    items.close()


def test_an_error_for_people_keeps_its_words():
    def make(number):
        if number == 2:
            raise TrocarError("mask 2 is empty")
        return number

    items = prepared(make, 5, 2, pin=False)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(TrocarError, match="mask 2 is empty"):
        next(items)


def test_a_process_that_dies_is_a_sentence():
    def make(number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(TrocarError, match=r"ended before its time .*Lower workers"):
        list(prepared(make, 4, 1, pin=False))


def test_there_are_no_more_processes_than_pay_or_find_room(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "granted_cores", lambda: 12)
    assert worker_count(None, 1, 1000) == 10
    assert worker_count(3, 1, 1000) == 3
    assert worker_count(0, 1, 1000) == 0
    assert worker_count(None, 1, 9) == 2
    assert worker_count(None, 2**60, 1000) == 0
    monkeypatch.setattr(workers, "granted_cores", lambda: 2)
    assert worker_count(None, 1, 1000) == 0
    monkeypatch.setattr(workers, "granted_cores", lambda: 128)
    monkeypatch.setattr(workers, "SHARED", tmp_path / "none")
    assert worker_count(None, 2**60, 1000) == workers.MOST
