"""What a run ran on, for its record: processor, GPU, and the libraries between."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trocar.backbones.device import driver


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
