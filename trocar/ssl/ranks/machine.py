"""What the ranks of one machine share, cores and /dev/shm, and how much of it each may take.

Which GPU a rank takes, and how many ranks a machine's GPUs make.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trocar.backbones.device import choose_device, hidden
from trocar.core.resources import affinity, granted_cores, usable_cores
from trocar.data.loading.steps import empty_crops
from trocar.data.loading.workers import PREFETCH, SHARED
from trocar.data.views.recipe import ViewRecipe
from trocar.errors import ConfigError

if TYPE_CHECKING:
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.run.pretrain_config import PretrainConfig

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST_WORKERS = 16
"""Of `run.workers: auto`: each costs memory, and the smallest backbones in use eat what about eleven cores decode."""
CPU_WORKERS = 2
"""Of the same on a CPU, where workers take cores from the training itself."""


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


@dataclass(frozen=True)
class MachineShare:
    """Ranks that share something with this one, itself included: `cores` it may run on, and the `memory` /dev/shm."""

    cores: int = 1
    memory: int = 1

    @classmethod
    def found(cls, gather: Callable[[str, str], list[str]]) -> MachineShare:
        """Of what all ranks say of themselves; `gather(name, word)` returns every rank's word.

        Asked of the ranks and not of variables: whether a launcher or a cluster ties a rank to cores of its own, or
        gives it a container of its own, only they know.
        """
        own = _describe()
        others = [json.loads(word) for word in gather("machine", json.dumps(own))]
        here = [other for other in others if other["boot"] == own["boot"]]
        cores = sum(bool({*other["cores"]} & {*own["cores"]}) for other in here)
        return cls(max(1, cores), max(1, sum(other["memory"] == own["memory"] for other in here)))


def machine_name() -> str:
    """What tells this machine from all others. Two containers of one machine have the same."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _describe() -> dict[str, Any]:
    # Two containers of one machine may have a /dev/shm each.
    return {"boot": machine_name(), "cores": affinity(), "memory": SHARED.stat().st_dev if SHARED.is_dir() else 0}


def default_threads(sharing: int) -> int:
    """What OMP_NUM_THREADS says for each rank, else this one's part of the cores that `sharing` ranks may run on."""
    if os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads()
    return max(1, usable_cores() // sharing)


def workers_on(device: str, sharing: int) -> int:
    """Loader workers of one of `sharing` ranks that share the cores: on a GPU all but two cores of its share, for the
    thread that trains and the one that hands over.
    """
    share = granted_cores() // sharing
    return max(1, min(CPU_WORKERS, share) if device == "cpu" else min(MOST_WORKERS, share - 2))


def handed_over(recipe: ViewRecipe, batch: int, device: str) -> int:
    """Bytes of a batch of one rank as a loader worker hands it over in shared memory: float32 views where it makes
    them, on a CPU, else uint8 crops.
    """
    bytes_each = 4 if device == "cpu" else 1
    return batch * bytes_each * sum(crops.numel() for crops in empty_crops(recipe, 1).values())


def fitting_workers(batch_bytes: int, sharing: int) -> int | None:
    """How many loader workers of each of `sharing` ranks find room for their batches; None where nobody knows."""
    size = shared_size()
    return None if size is None or batch_bytes == 0 else size // (PREFETCH * batch_bytes * sharing)


def shared_size() -> int | None:
    """Bytes of /dev/shm; None where there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def require_shared_memory(batch_bytes: int, workers: int, sharing: int) -> None:
    """Raises ConfigError where the batches that loader workers work ahead do not fit into /dev/shm.

    A worker that finds no room there dies of a bus error in the middle of a run, as soon as the training is slower than
    the loader.
    """
    fitting, size = fitting_workers(batch_bytes, sharing), shared_size()
    if size is None or fitting is None or workers <= fitting:
        return
    need = PREFETCH * batch_bytes * workers * sharing
    less = f"run.workers={fitting}" if fitting else "run.workers=0, which loads in the trainer itself,"
    raise ConfigError(
        f"{sharing} rank(s) x {workers} loader workers x {PREFETCH} batches of {batch_bytes / 2**20:,.0f} MiB are "
        f"{need / 2**30:,.2f} GiB, and {SHARED}, which they are handed over in, has {size / 2**30:,.2f} GiB. Make it "
        f"larger (docker run --shm-size={-(-need // 2**30) + 1}g), or take {less} or a smaller train.batch"
    )
