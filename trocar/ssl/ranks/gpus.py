"""Which GPU a rank takes, and how many ranks a machine's GPUs make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from trocar.backbones.device import choose_device, hidden
from trocar.errors import ConfigError

if TYPE_CHECKING:
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.run.pretrain_config import PretrainConfig


def gpu_of(local_rank: int, visible: int) -> int:
    """The number of the GPU for a rank that sees `visible` of them, at least one.

    Where a rank sees one alone, a cluster has given each task its own (`--gpus-per-task`), whatever its number here.
    Raises ConfigError for more ranks than GPUs.
    """
    if visible > 1 and local_rank >= visible:
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU: {visible} are visible, and each rank takes one. Start as "
            f"many ranks as GPUs on each machine (tasks per node, torchrun --nproc-per-node, run.ranks)"
        )
    return local_rank % visible


def ranks_of(config: PretrainConfig) -> int:
    """`run.ranks` with a number for `auto`. Raises ConfigError for a batch that doesn't divide by it."""
    if config.run.ranks != "auto":
        return config.run.ranks
    ranks = max(1, _visible(config))
    if wrong := config.indivisible(ranks):
        raise ConfigError(f"run.ranks=auto is {ranks} here: {wrong}")
    return ranks


def ranks_to_start(config: PretrainConfig) -> int:
    """The same for a start on this machine. Raises ConfigError for more ranks than it has GPUs."""
    ranks, visible = ranks_of(config), _visible(config)
    if visible and ranks > visible:
        raise ConfigError(
            f"run.ranks={ranks}, but {visible} GPU(s) are visible, and each rank takes one; take run.ranks={visible}, "
            f"run.ranks=auto, or run.device=cpu"
        )
    return ranks


def _visible(config: PretrainConfig) -> int:
    """GPUs for a run, 0 on a CPU."""
    return torch.cuda.device_count() if choose_device(config.run.device, "run.device") == "cuda" else 0


def name_of(device: torch.device) -> str:
    """What tells a GPU from all others, whatever its number in this process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def refuse_shared(names: Sequence[str]) -> None:
    """Raises ConfigError where two ranks took one GPU, which NCCL refuses in words of its own; `names` by rank."""
    for rank, name in enumerate(names):
        first = names.index(name)
        if first != rank:
            raise ConfigError(
                f"ranks {first} and {rank} have the same GPU ({name}): their machine has fewer GPUs than ranks, or it "
                f"shows all tasks the same one; with SLURM ask for --gpus-per-task=1, or as many GPUs as tasks"
            )


def idle_gpus(world: World, device: torch.device) -> list[str]:
    """What to say of GPUs that a run on `device` leaves alone, in at most one line."""
    if device.type == "cpu":
        where = hidden()
        return [f"this machine has GPUs, and {where} hides them: this runs on the CPU"] if where else []
    visible = torch.cuda.device_count()
    if world.size > 1 or visible == 1:
        return []
    return [f"{visible} GPUs visible, 1 used: run.ranks=auto takes all, with the same batches"]
