"""What happens to a frame follows from seed, epoch and row, and from nothing else: neither does what worker processes
compute from how many there are.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from trocar.backbones.preprocess import Preprocessing
from trocar.data.loading import workers
from trocar.data.loading.workers import worker_count
from trocar.data.views.recipe import Jitter
from trocar.downstream.training.batches import Augmentation, NetworkImages, prepared
from trocar.errors import TrocarError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)


def images(augmentation: Augmentation | None, seed: int = 0) -> NetworkImages:
    return NetworkImages(PIXELS, Preprocessing(size=(16, 16)), augmentation, seed, "cpu")


def view(found: NetworkImages, rows: list[int], epoch: int | None) -> torch.Tensor:
    return found.finish(found.cut(np.array(rows), epoch))


def test_an_augmented_frame_does_not_depend_on_its_batch() -> None:
    found = images(Augmentation())
    assert torch.equal(view(found, [2, 5, 7], 3)[1], view(found, [5], 3)[0])


@pytest.mark.parametrize(("seed", "epoch"), [(0, 4), (1, 3)])
def test_another_epoch_or_seed_is_another_view(seed: int, epoch: int) -> None:
    assert not torch.equal(view(images(Augmentation()), [5], 3), view(images(Augmentation(), seed), [5], epoch))


def test_without_augmentation_and_outside_of_training_a_frame_is_only_normalised() -> None:
    expected = Preprocessing().normalise(torch.from_numpy(PIXELS[[4]]).permute(0, 3, 1, 2))
    assert torch.equal(view(images(None), [4], 3), expected)
    assert torch.equal(view(images(Augmentation()), [4], None), expected)


def test_a_neutral_augmentation_changes_nothing_and_a_sure_flip_mirrors() -> None:
    still = Jitter(p=0)
    plain = Preprocessing().normalise(torch.from_numpy(PIXELS[[4]]).permute(0, 3, 1, 2))
    for flip in (0, 1):
        augmentation = Augmentation(scale=(1, 1), ratio=(1, 1), flip=flip, jitter=still)
        expected = plain.flip(-1) if flip else plain
        assert view(images(augmentation), [4], 0).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_worker_processes_cut_what_a_thread_cuts() -> None:
    parts = list(np.arange(9)[:, None])
    found = images(Augmentation())
    alone = [found.cut(part, 2) for part in parts]
    for count in (1, 2):
        found.workers = count
        cuts = found._by_workers(parts, 2, pin=False)
        assert cuts is not None
        for cut, expected in zip(cuts, alone, strict=True):
            assert torch.equal(cut.images, expected.images)
            assert torch.equal(found.finish(cut), found.finish(expected))
    found.workers = 0
    assert found._by_workers(parts, 2) is None
    for (own, cut), part, expected in zip(found.batches(parts, 2), parts, alone, strict=True):
        assert (own == part).all()
        assert torch.equal(cut.images, expected.images)


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
