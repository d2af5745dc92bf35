"""A copy of the state that is written as the original would be, and that no later step reaches.

Checkpoints that are written while the training goes on: the same files, of the step that they name.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trocar.backbones.export import BackboneFiles
from trocar.core import resources
from trocar.core.files import HashedFile
from trocar.errors import TrocarError
from trocar.runs.lease import LeaseLost
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.checkpoint_writer import (
    CheckpointContent,
    CheckpointWriter,
    Kept,
    NoRoomError,
    Snapshot,
    bytes_of,
    kinds_of,
)


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


class Training:
    """A network and its optimizer; the network is exported."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.1, fused=True)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.network(torch.rand(2, 3, 8, 8)).square().sum().backward()
        self.optimizer.step()

    def content(self) -> CheckpointContent:
        weights = self.network.state_dict()
        state = {"method": weights, "optimizer": self.optimizer.state_dict(), "skipped": 0}
        return CheckpointContent(
            state, BackboneFiles({"architecture": "net", "trocar": {}}, dict(weights)), {"identity": {}}
        )


class Gate:
    """What the writer asks before it begins and before it publishes; it can be held up, or say no."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def __call__(self) -> None:
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error


def writer(run: Path, gate: Callable[[], None] = lambda: None, say: Callable[[str], None] = print) -> CheckpointWriter:
    return CheckpointWriter(run, Kept(2, None), gate, say)


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_the_files_are_those_that_the_training_waits_for(tmp_path: Path) -> None:
    training = Training()
    training.step()
    writer(tmp_path / "waited").write(1, training.content(), wait=True)
    behind = writer(tmp_path / "behind")
    behind.write(1, training.content())
    assert behind.close() is None
    assert files(tmp_path / "behind") == files(tmp_path / "waited")
    folder = checkpoint.path_of(tmp_path / "behind", 1)
    assert {path.name for path in folder.rglob("*")} == {
        *("state.pt", "manifest.json", "backbone", "config.json", "model.safetensors")
    }
    assert checkpoint.verify(folder) is None


def test_memory_is_found_before_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    training.step()
    writer(tmp_path / "waited").write(1, training.content(), wait=True)
    behind = writer(tmp_path / "behind", say=pytest.fail)  # it would say that it has no room
    behind.prepare(training.content())
    assert behind.close() is None
    monkeypatch.setattr(resources, "available", lambda: 0)
    behind.write(1, training.content())
    assert behind.close() is None
    assert files(tmp_path / "behind") == files(tmp_path / "waited")


def test_a_checkpoint_is_of_its_step_although_the_training_goes_on(tmp_path: Path) -> None:
    training, gate = Training(), Gate()
    behind = writer(tmp_path / "behind", gate)
    for step in (1, 2, 3):
        training.step()
        writer(tmp_path / "waited").write(step, training.content(), wait=True)
        gate.open.clear()
        behind.write(step, training.content())
        training.step()
        gate.open.set()
        assert behind.close() is None
        assert files(checkpoint.path_of(tmp_path / "behind", step)) == files(
            checkpoint.path_of(tmp_path / "waited", step)
        )


def test_a_second_checkpoint_waits_for_the_first_and_old_ones_go(tmp_path: Path) -> None:
    training, gate = Training(), Gate()
    behind = writer(tmp_path, gate)
    gate.open.clear()
    behind.write(1, training.content())
    threading.Timer(0.05, gate.open.set).start()
    behind.write(2, training.content())
    assert 1 in checkpoint.steps(tmp_path)
    behind.write(3, training.content(), wait=True)
    assert checkpoint.steps(tmp_path) == [2, 3]


def test_a_write_that_failed_ends_the_run_at_the_next_step_with_the_usual_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, behind = Training(), writer(tmp_path)
    behind.write(1, training.content(), wait=True)

    def full(file: HashedFile, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashedFile, "write", full)
    behind.write(2, training.content())
    behind._background.wait()
    with pytest.raises(
        TrocarError,
        match=r"cannot write a checkpoint to .*: No space left on device; the newest complete .* is step 1\. Free",
    ):
        behind.check()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    behind.write(3, training.content())
    with pytest.raises(TrocarError, match="cannot write a checkpoint"):  # also where nothing asked in between
        behind.write(4, training.content(), wait=True)


def test_who_lost_the_lease_while_it_wrote_publishes_nothing_and_hears_that(tmp_path: Path) -> None:
    training, gate = Training(), Gate()
    behind = writer(tmp_path, gate)
    gate.open.clear()
    behind.write(1, training.content())
    gate.error = LeaseLost("taken over by another process")
    gate.open.set()
    with pytest.raises(LeaseLost):
        behind.write(2, training.content(), wait=True)
    assert checkpoint.steps(tmp_path) == []


def test_files_that_a_successor_took_away_are_a_lost_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, gate = Training(), Gate()

    def gone(file: HashedFile, data: bytes) -> int:
        gate.error = LeaseLost("taken over by another process")
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(HashedFile, "write", gone)
    behind = writer(tmp_path, gate)
    behind.write(1, training.content())
    assert isinstance(behind.close(), LeaseLost)


def test_networks_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    training, behind = Training(), writer(tmp_path)
    behind.write(1, training.content())
    training.network[0].weight.data.fill_(torch.nan)
    behind.write(2, training.content())
    error = behind.close()
    assert "the networks after step 2; the checkpoint before is the last good one" in str(error)
    assert checkpoint.steps(tmp_path) == [1]


def test_without_memory_for_a_copy_the_training_waits_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    training, behind = Training(), writer(tmp_path, say=said.append)
    monkeypatch.setattr(resources, "available", lambda: 1000)
    for step in (1, 2):
        behind.write(step, training.content())
        assert step in checkpoint.steps(tmp_path)  # before it returned
    (line,) = said
    assert line.startswith("a copy of the state needs 0.00 GiB, and 0.00 GiB are free: the training waits")


def test_a_write_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    training, gate = Training(), Gate()
    behind = writer(tmp_path, gate)
    behind.write(1, training.content(), wait=True)
    gate.open.clear()
    behind.write(2, training.content())
    threading.Timer(0.05, gate.open.set).start()
    assert behind.close(give_up=True) is None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
