"""Memory that runs out is a sentence about what the user can change."""

import pytest
import torch

from trocar.backbones.device import explained
from trocar.errors import TrocarError
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.run.pretrain import memory_remedy

TRAIN = TrainConfig(batch=512, steps=1, accumulate=2, grad_checkpointing=False)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines."),
        RuntimeError("CUDA error: out of memory\nCompile with..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_it_names_batch_accumulate_and_grad_checkpointing_with_what_they_are(error):
    with pytest.raises(TrocarError) as found, explained(lambda: memory_remedy(TRAIN, 8)):
        raise error
    words = str(found.value)
    assert "32 frames at a time on each of 8 rank(s)" in words
    assert "train.accumulate (now 2)" in words
    assert "train.grad_checkpointing to true (now false)" in words
    assert "train.batch (now 512)" in words
    assert "train.shard to full (now none)" in words
    assert "More lines" not in words
    assert found.value.__cause__ is error


@pytest.mark.parametrize(("shard", "ranks"), [("none", 1), ("full", 2)])
def test_parts_are_no_remedy_for_one_rank_or_where_there_are_parts(shard, ranks):
    assert "train.shard" not in memory_remedy(TRAIN.model_copy(update={"shard": shard}), ranks)


def test_an_allocation_that_no_machine_can_serve_is_explained():
    with (
        pytest.raises(TrocarError, match=r"out of memory .* 256 frames at a time"),
        explained(lambda: memory_remedy(TRAIN, 1)),
    ):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), explained(lambda: memory_remedy(TRAIN, 1)):
        raise RuntimeError("shapes differ")
