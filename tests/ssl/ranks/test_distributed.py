"""How ranks come together: the limits of collectives, and what is said without them."""

import threading

import pytest
import torch
import torch.distributed as dist

from trocar.errors import TrocarError
from trocar.ssl.ranks import distributed
from trocar.ssl.ranks.distributed import World, collective_timeout_s, process_group, wait_for_all
from trocar.ssl.ranks.rendezvous import Meeting


class JoinedError(Exception):
    """Raised in the place of what would need other ranks."""


def test_a_collective_outlasts_the_wait_for_data_of_any_rank():
    assert collective_timeout_s(60) == 660
    assert collective_timeout_s(None) > 3600


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_the_group_has_a_limit_and_nccl_its_device(monkeypatch, tmp_path, device, backend):
    asked = {}

    def join(backend, **options):
        asked.update(options, backend=backend)
        raise JoinedError

    monkeypatch.setattr(dist, "init_process_group", join)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(current=device))
    monkeypatch.setattr(distributed, "name_of", lambda device: f"GPU of {device}")
    monkeypatch.setattr(distributed, "meet", lambda where, rank, size: met(where))
    places = []

    def met(where):
        places.append(where)
        store = dist.HashStore()
        store.set("gpu/1", "another GPU")
        store.set("gpu/all", "")
        return Meeting(store, 0, 2)

    with pytest.raises(JoinedError), process_group(World(0, 2, 1, "step-7.0-0"), torch.device(device), tmp_path, 100):
        pass
    assert places == [f"port://{tmp_path}/slurm/meet/step-7.0-0.json"]
    assert (asked["backend"], asked["timeout"].total_seconds()) == (backend, 700)
    assert asked["device_id"] == (torch.device(device) if backend == "nccl" else None)
    assert asked.get("current") == asked["device_id"]


def test_who_waits_for_a_slow_rank_waits_in_no_collective(monkeypatch):
    store, order = dist.HashStore(), []

    def slow():
        order.append("copied")
        Meeting(store, 1, 2).wait("staging", 10)

    other = threading.Timer(0.5, slow)
    other.start()
    monkeypatch.setattr(distributed, "_meeting", Meeting(store, 0, 2))
    monkeypatch.setattr(dist, "barrier", lambda: pytest.fail("a collective"))
    wait_for_all("staging", 10)
    assert order == ["copied"]
    other.join()


def test_a_rank_that_never_comes_is_missed_in_words():
    with pytest.raises(TrocarError, match="only 1 of 3 ranks came to 'staging' within 0 s"):
        Meeting(dist.HashStore(), 2, 3).wait("staging", 0.3)


def test_all_hear_what_each_says():
    store, heard = dist.HashStore(), {}
    ranks = [Meeting(store, rank, 3) for rank in range(3)]
    threads = [
        threading.Thread(target=lambda m=m: heard.update({m.rank: m.gather("name", f"I am {m.rank}")})) for m in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert heard == {rank: ["I am 0", "I am 1", "I am 2"] for rank in range(3)}


def test_one_process_has_only_its_own_word():
    assert distributed.gather_words("x", "mine") == ["mine"]
    wait_for_all("x", 0)
