"""What a run ran on, for its record: processor, GPU, and the libraries between.

Out of memory as a sentence: what a step's memory depends on, with the values it has.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trocar.backbones.device import driver, is_out_of_memory
from trocar.errors import TrocarError
from trocar.ssl.engine.trainer import TrainConfig


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or sys.platform
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_facts(device: torch.device) -> dict[str, Any]:
    """Name and compute capability of a GPU, driver, CUDA, cuDNN and NCCL, and whether TF32 is on; {} for a CPU."""
    if device.type != "cuda":
        return {}
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "gpu": torch.cuda.get_device_name(device),
        "compute_capability": f"{major}.{minor}",
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nccl": nccl_version(),
        "tf32": torch.get_float32_matmul_precision() != "highest",
    }


def dali_version() -> str | None:
    """Of the installed DALI, whatever CUDA it is for."""
    for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def nccl_version() -> str | None:
    """Of the NCCL that this torch is built with."""
    if not torch.distributed.is_nccl_available():
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]


@contextmanager
def explained(train: TrainConfig, ranks: int) -> Iterator[None]:
    """Within, memory that a device or the system refuses is a TrocarError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrocarError(_sentence(train, ranks, error)) from error
        raise


def _sentence(train: TrainConfig, ranks: int, error: RuntimeError | MemoryError) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"out of memory with {train.batch // (ranks * train.accumulate)} frames at a time on each of {ranks} rank(s) "
        f"({first}). Raise train.accumulate (now {train.accumulate}), set train.grad_checkpointing to true (now "
        f"{str(train.grad_checkpointing).lower()}){_parts(train, ranks)} or lower train.batch (now {train.batch}); "
        f"`trocar pretrain` with --dry-run estimates what is needed. A run that has checkpoints goes on with such a "
        f"change where resume.allow names it, as [recipe.train.accumulate] does"
    )


def _parts(train: TrainConfig, ranks: int) -> str:
    return ", set train.shard to full (now none)" if ranks > 1 and train.shard == "none" else ""
