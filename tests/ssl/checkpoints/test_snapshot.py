"""A copy of the state that is written as the original would be, and that no later step reaches."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from trocar.core import resources
from trocar.ssl.checkpoints.snapshot import NoRoomError, Snapshot, bytes_of, kinds_of


def state() -> dict[str, Any]:
    """What torch's states have in them: shared memory, strides, offsets, types, numbers, words, nothing."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    network.append(network[0])  # its weights under two names
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    network[:2](torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    table = torch.arange(12.0)
    odd = {"row": table[4:8], "table": table.view(3, 4).t(), "half": torch.ones(3).bfloat16(), "none": torch.zeros(0)}
    return {"method": network.state_dict(), "optimizer": optimizer.state_dict(), "odd": [odd, (None, "x", True, 3)]}


def written(tree: object) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


def test_a_copy_is_written_in_the_bytes_of_the_original() -> None:
    tree = state()
    copied = Snapshot().take(tree)
    assert written(copied) == written(tree)
    assert copied["odd"][0]["row"].data_ptr() == copied["odd"][0]["table"].data_ptr() + 16
    assert type(copied["method"]) is type(tree["method"])


def test_a_copy_stays_what_it_was_when_the_original_changes() -> None:
    tree = state()
    before = written(tree)
    copied = Snapshot().take(tree)
    for tensor in [*tree["method"].values(), *tree["odd"][0].values(), tree["optimizer"]["state"][0]["exp_avg"]]:
        tensor.fill_(7)
    tree["optimizer"]["param_groups"][0]["lr"] = 7
    assert written(copied) == before
    assert written(tree) != before


def test_the_next_copy_needs_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, weight = Snapshot(), torch.rand(1000)
    first = snapshot.take({"w": weight})["w"].data_ptr()
    monkeypatch.setattr(resources, "available", lambda: 0)
    weight += 1
    copied = snapshot.take({"w": weight})["w"]
    assert copied.data_ptr() == first
    assert torch.equal(copied, weight)
    monkeypatch.setattr(resources, "available", lambda: 100_000)
    copied = snapshot.take({"w": weight, "late": torch.ones(2000)})  # a layer that was frozen so far has moments now
    assert copied["w"].data_ptr() == first
    assert torch.equal(copied["late"], torch.ones(2000))


def test_memory_found_beforehand_is_what_the_first_copy_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, tree = Snapshot(), state()
    snapshot.find_room(kinds_of(tree), lambda: None)
    monkeypatch.setattr(resources, "available", lambda: 0)
    assert written(snapshot.take(tree)) == written(tree)
    monkeypatch.setattr(resources, "available", lambda: 1)
    empty = Snapshot()
    empty.find_room(kinds_of(tree), lambda: None)  # no room is not its to report
    with pytest.raises(NoRoomError):
        empty.take(tree)


def test_every_page_is_written_to_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[torch.Tensor] = []

    def sevens(size: int, **options: object) -> torch.Tensor:
        blocks.append(torch.full((size,), 7, dtype=torch.uint8))
        return blocks[-1]

    monkeypatch.setattr(torch, "empty", sevens)
    Snapshot().find_room([(150 << 20, False), (12, False), (0, False)], lambda: None)
    assert [int(block.count_nonzero()) for block in blocks] == [0, 0, 0]
    assert [block.numel() for block in blocks] == [150 << 20, 12, 0]


def test_a_search_for_memory_that_nobody_waits_for_ends() -> None:
    def give_up() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Snapshot().find_room([(3, False)], give_up)


def test_without_room_it_says_what_is_needed_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, tree = Snapshot(), {"w": torch.empty(1 << 30, dtype=torch.uint8)}
    monkeypatch.setattr(resources, "available", lambda: 5 << 28)
    with pytest.raises(NoRoomError, match=r"a copy of the state needs 1\.00 GiB, and 1\.25 GiB are free"):
        snapshot.take({**tree, "a byte more": torch.zeros(1, dtype=torch.uint8)})
    monkeypatch.setattr(resources, "available", lambda: None)  # not known: it is tried
    assert snapshot.take({"w": torch.ones(3)})["w"].tolist() == [1, 1, 1]


def test_memory_that_cannot_be_had_is_no_room_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nfor debugging consider")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(NoRoomError, match=r"CUDA error: out of memory$"):
        Snapshot().take({"w": torch.ones(3)})


def test_page_locked_memory_comes_in_powers_of_two() -> None:
    assert [bytes_of(n, pinned=True) for n in (0, 1, 2, 3, 4096, 4097)] == [0, 1, 2, 4, 4096, 8192]
    assert bytes_of(4097, pinned=False) == 4097
