"""Ranks: who am I, averages over all, agreement at a step boundary. Everything works without a process group too.

Which of `srun`'s tasks this process is, and which processes of a SLURM job are none though they see its variables.

A step's variables reach everything that its tasks start. A command typed into a shell of `srun --pty` or `salloc`, or
called by a job's script without `srun`, would wait for ranks that never come if it took itself for one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from lightly.utils.dist import gather as gather_with_gradient
from lightly.utils.dist import rank, world_size
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from trocar.errors import ConfigError
from trocar.ssl.ranks.machine import name_of, refuse_shared
from trocar.ssl.ranks.rendezvous import Meeting, meet


def gather(x: Tensor) -> Tensor:
    """[b, ...] of each rank -> [ranks b, ...], with gradient: what every rank's loss sends back is summed.

    DistributedDataParallel divides by the number of ranks, so a mean over each rank's samples gets the gradient of the
    mean over all. Ranks have equally many.
    """
    return torch.cat(list(gather_with_gradient(x.contiguous()))) if is_distributed() else x


@torch.no_grad()
def gather_detached(x: Tensor) -> Tensor:
    """The same without gradient."""
    if not is_distributed():
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def own_slice(x: Tensor) -> Tensor:
    """int64[b]: where this rank's samples x [b, ...] stand among those of all ranks."""
    rank = dist.get_rank() if is_distributed() else 0
    return torch.arange(rank * len(x), (rank + 1) * len(x), device=x.device)


@torch.no_grad()
def push(rings: Sequence[Tensor], pushed: Tensor, new: Sequence[Tensor]) -> None:
    """Overwrite the oldest entries of rings [length, ...] with `new` [n, ...], in order; of more than fit, the last.

    The rings are of one length and move together. `pushed` int64[] counts what was ever put in: the next entry goes to
    place `pushed % length`, and the rings are full when `pushed >= length`. It is a tensor, so that it is in the
    checkpoint and the host need not wait for it.
    """
    length = len(rings[0])
    kept = min(length, len(new[0]))
    at = (pushed + torch.arange(kept, device=pushed.device)) % length
    for ring, values in zip(rings, new, strict=True):
        ring[at] = values[-kept:].to(ring.dtype)
    pushed.add_(kept)


def own_share(ring: Tensor) -> Tensor:
    """[length / ranks, ...]: every ranks-th entry of a ring that all ranks hold alike, beginning with this rank's.

    Raises ConfigError if the length does not divide.
    """
    length, ranks = len(ring), world_size()
    if length % ranks:
        raise ConfigError(f"method.queue: {length} does not divide by {ranks} ranks; {length + -length % ranks} would")
    return ring[rank() :: ranks]


SPECIAL = 0xFFFFFFF0
"""Ids from here on are steps that SLURM itself makes: ...fa the shell of `salloc`, ...fb a job's script, ...fc what
comes in by ssh. Whatever number of tasks the job has, these are one process."""


@dataclass(frozen=True)
class SrunTask:
    """Task `rank` of `size`, `local_rank` on its node. `step` is a name that no other step, and no other life of this
    one after a requeue, has.
    """

    rank: int
    size: int
    local_rank: int
    step: str


def of(environ: Mapping[str, str], is_typed: Callable[[int], bool] | None = None) -> SrunTask | None:
    """The task that `srun` started this process, or what started it, as; None where it is no step of several tasks.

    `is_typed` is told SLURM_TASK_PID, the step's own process here, and says whether that is a shell with a terminal.
    """
    number = environ.get("SLURM_STEP_ID", "")
    # SLURM_NTASKS alone is the job's in a script, and what `srun` sets it to depends on its version.
    size = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS") or "1"
    if not number.isdigit() or int(number) >= SPECIAL or int(size) < 2 or "SLURM_PROCID" not in environ:
        return None
    task = environ.get("SLURM_TASK_PID", "")
    if (is_typed or _is_typed)(int(task) if task.isdigit() else os.getpid()):
        return None
    life = environ.get("SLURM_RESTART_COUNT") or "0"
    rank = int(environ["SLURM_PROCID"])
    local_rank = int(environ.get("SLURM_LOCALID") or rank)
    return SrunTask(rank, int(size), local_rank, f"step-{environ.get('SLURM_JOB_ID', '')}.{number}-{life}")


def _is_typed(task: int) -> bool:
    """Whether the step's process is a shell with a terminal, and we are a command in it.

    SLURM_PTY_PORT doesn't tell: an `srun` that is typed into such a shell hands it on to its own tasks, which have no
    terminal.
    """
    return task != os.getpid() and (_has_terminal(task) if Path(f"/proc/{task}").exists() else _has_terminal("self"))


def _has_terminal(pid: int | str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[4] != "0"  # the controlling terminal; the command's name before may hold blanks


BEHIND_DATA_S = 600.0
"""How much longer a collective may take than a batch: the rank whose data hang says so before the others give up."""

_meeting: Meeting | None = None


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes; `local_rank` counts those of this machine.

    `step` names the SLURM step whose tasks the ranks are, and this start of it; "" where another launcher brought them
    together and said where they meet.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    step: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> World | None:
        """Of RANK, WORLD_SIZE and LOCAL_RANK, as torchrun and our own launcher set them, else of the tasks of a SLURM
        step (`srun`); None for a process that nobody started as one of several.
        """
        if "RANK" in environ and "WORLD_SIZE" in environ:
            rank = int(environ["RANK"])
            return cls(rank, int(environ["WORLD_SIZE"]), int(environ.get("LOCAL_RANK", rank)))
        task = of(environ)
        return cls(task.rank, task.size, task.local_rank, task.step) if task is not None else None

    @property
    def is_main(self) -> bool:
        """Whether this rank writes: checkpoints, metrics, the progress bar."""
        return self.rank == 0


@contextmanager
def process_group(
    world: World, device: torch.device, out: Path = Path(), data_timeout_s: float | None = None
) -> Iterator[None]:
    """Join the other ranks (NCCL on GPUs, else gloo); nothing to do for a single process.

    Tasks of a SLURM step meet by a file in the run folder `out`. A collective fails where a rank is missing for longer
    than `data_timeout_s`, seconds that one may wait for its data, and some; None: after a day. Raises TrocarError where
    ranks do not find each other.
    """
    global _meeting
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1:
        yield
        return
    meeting = meet(meeting_place(world, out), world.rank, world.size)
    if device.type == "cuda":
        refuse_shared(meeting.gather("gpu", name_of(device)))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", meeting.store),
        rank=world.rank,
        world_size=world.size,
        timeout=timedelta(seconds=collective_timeout_s(data_timeout_s)),
        # NCCL then connects here, where an error names its reason, and a barrier need not guess the device.
        device_id=device if device.type == "cuda" else None,
    )
    _meeting = meeting
    try:
        yield
        meeting.leave()
    finally:
        _meeting = None
        dist.destroy_process_group()


def meeting_place(world: World, out: Path) -> str:
    """Where several ranks meet: tasks of a SLURM step by a file below `out`, others where their launcher says."""
    if world.step:
        return f"port://{out.absolute()}/slurm/meet/{world.step}.json"
    return os.environ.get("TROCAR_RENDEZVOUS", "env://")


def collective_timeout_s(data_timeout_s: float | None) -> float:
    """Seconds until a collective gives up on a rank that doesn't come: always more than that rank waits for data."""
    return 24 * 3600.0 if data_timeout_s is None else data_timeout_s + BEHIND_DATA_S


def gather_words(name: str, word: str) -> list[str]:
    """What every rank says under `name`, which must be new for each call, by rank. Uses no collective and no device."""
    return [word] if _meeting is None else _meeting.gather(name, word)


def wait_for_all(name: str, limit_s: float) -> None:
    """Wait until every rank is here, for up to `limit_s` seconds; `name` must be new for each call.

    In the store and not in a collective: NCCL watches those, and would abort ranks that wait for a copy of hours.
    Raises TrocarError after the limit, and where rank 0 has ended.
    """
    if _meeting is not None:
        _meeting.wait(name, limit_s)


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


def broadcast_(values: Tensor) -> None:
    """Rank 0's values in place of every rank's; the tensor has the same shape and type on all, and lies on the device
    that the ranks exchange on.
    """
    if is_distributed():
        dist.broadcast(values, 0)


def barrier() -> None:
    """Wait for all ranks."""
    if is_distributed():
        dist.barrier()
