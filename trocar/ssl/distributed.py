"""Ranks: who am I, averages over all, agreement at a step boundary. Everything works without a process group too."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from trocar.ssl.rendezvous import SCHEME, port_store


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes; `local_rank` counts those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> World | None:
        """RANK, WORLD_SIZE and LOCAL_RANK, as torchrun and our own launcher set them; None if they aren't set."""
        if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
            return None
        rank = int(os.environ["RANK"])
        return cls(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes: checkpoints, metrics, the progress bar."""
        return self.rank == 0


@contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the other ranks (NCCL on GPUs, else gloo); nothing to do for a single process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1:
        yield
        return
    backend, where = "nccl" if device.type == "cuda" else "gloo", os.environ.get("TROCAR_RENDEZVOUS", "env://")
    if where.startswith(SCHEME):
        store = port_store(Path(where.removeprefix(SCHEME)), world.rank, world.size)
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    else:
        dist.init_process_group(backend, init_method=where, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks; a new tensor."""
    if not is_distributed():
        return value
    out = value.clone()
    dist.all_reduce(out)
    return out / dist.get_world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest of each entry of a tensor over ranks; a new tensor."""
    if not is_distributed():
        return value
    out = value.clone()
    dist.all_reduce(out, op=dist.ReduceOp.MAX)
    return out


def average_(buffers: Sequence[Tensor]) -> None:
    """Average floating-point buffers over ranks in place, so that a checkpoint of rank 0 is that of all."""
    floating = [b for b in buffers if b.is_floating_point()]
    if not is_distributed() or not floating:
        return
    flat = mean_over_ranks(torch.cat([b.flatten() for b in floating]))
    parts = torch.split(flat, [b.numel() for b in floating])
    torch._foreach_copy_(floating, [part.view_as(b) for b, part in zip(floating, parts, strict=True)])


def agree(flags: Tensor) -> list[float]:
    """The maximum over ranks of each entry of float32[n], on the host: the one synchronisation of a step."""
    return [float(v) for v in max_over_ranks(flags).tolist()]


def broadcast_int(value: int) -> int:
    """Rank 0's value, on every rank."""
    if not is_distributed():
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    box = torch.tensor([value], dtype=torch.int64, device=device)
    dist.broadcast(box, 0)
    return int(box.item())


def barrier() -> None:
    """Wait for all ranks."""
    if is_distributed():
        dist.barrier()
