"""The checks in order of value: what could be wrong first, then what could be slow.

The first is what there is: versions, driver, shared memory, the JPEG engine, one product.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from trocar.backbones.device import gpu_facts
from trocar.core.messages import Say
from trocar.core.resources import usable_cores
from trocar.data.loading.dali_pipeline import is_available
from trocar.diagnostics.gpu import pictures, speed, training
from trocar.diagnostics.gpu.runner import BAD, CheckFindings, GpuCheck, Subject, run_checks
from trocar.errors import ConfigError

PACKAGES = ("torch", "torchvision", "timm", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def machine(subject: Subject) -> CheckFindings:
    """Everything that a figure on this machine has to be read with; passes if a product of ones is right."""
    size = 64 if subject.tiny else 4096
    product = torch.ones(size, size, device=subject.device) @ torch.ones(size, size, device=subject.device)
    right = bool((product == size).all())
    values: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "cores": usable_cores(),
        "shared_memory_mib": shutil.disk_usage("/dev/shm").total >> 20 if Path("/dev/shm").exists() else None,
        "dali": is_available(),
        "product_is_right": right,
    }
    if subject.device.type == "cuda":
        values |= _card(subject.device)
    card = values.get("gpu", "CPU")
    with_dali = "DALI loads" if values["dali"] else "no DALI"
    return CheckFindings(right, f"{card}, torch {torch.__version__}, {values['cores']} cores, {with_dali}", values)


def _card(device: torch.device) -> dict[str, Any]:
    card = torch.cuda.get_device_properties(device)
    return {
        **gpu_facts(device),
        "memory_mib": card.total_memory >> 20,
        "bfloat16": torch.cuda.is_bf16_supported(),
        "jpeg_engines": jpeg_engines(),
    }


def jpeg_engines() -> dict[str, int] | None:
    """Engines and cores of each that nvJPEG finds for decoding, None where it can't be asked.

    `nvjpegGetHardwareDecoderInfo` of nvJPEG's API; a status of 0 is success.
    """
    package = importlib.util.find_spec("nvidia")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    libraries = [path for folder in folders for path in sorted(Path(folder).rglob("libnvjpeg.so*"))]
    for path in libraries:
        try:
            library = ctypes.CDLL(str(path))
            handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
            if library.nvjpegCreateSimple(ctypes.byref(handle)):
                continue
            status = library.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
            library.nvjpegDestroy(handle)
        except (OSError, AttributeError):
            continue
        if status == 0:
            return {"engines": engines.value, "cores_per_engine": cores.value}
    return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def frames(subject: Subject) -> CheckFindings:
    """The frames that all other checks read."""
    rows = len(subject.catalog.frames["size"])
    size = int(subject.catalog.frames["size"].mean())
    return CheckFindings(True, f"{rows} frames of {size >> 10} KiB", {"rows": rows, "mean_bytes": size})


RIGHT = (
    GpuCheck("machine", 60, machine),
    GpuCheck("frames", 60, frames),
    GpuCheck("parity", 60, pictures.parity),
    GpuCheck("lifetime", 60, pictures.lifetime),
    GpuCheck("overlapped", 60, pictures.overlapped),
    GpuCheck("augmentation", 30, pictures.augmentation),
    GpuCheck("waits", 60, training.synchronisations),
    GpuCheck("host link", 60, speed.host),
    GpuCheck("links", 120, speed.ranks),
    GpuCheck("methods", 120, training.methods),
    GpuCheck("one rank", 60, training.one_rank),
    GpuCheck("features", 60, speed.features),
    GpuCheck("resume", 120, training.resume),
)
"""Whether what is computed is right: `trocar doctor --gpu`."""

FAST = (
    GpuCheck("backends", 120, speed.backends),
    GpuCheck("compiled", 180, speed.compiled),
    GpuCheck("networks", 90, speed.networks),
    GpuCheck("parts", 60, speed.parts),
)
"""How fast it is; `benchmarks/gpu/acceptance.py` runs these as well."""


def examine_gpu(say: Say, report: Path | None = None) -> bool:
    """Run `RIGHT` on the first GPU and print what is found; True unless a check failed.

    `report`: a JSON file of all figures, written after each check. A check that hangs ends the process with exit code
    1. Raises ConfigError without a GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("--gpu: torch sees no GPU; `trocar doctor` without --gpu says what it finds of one")

    def end() -> None:
        say("the check above did not come to an end, and nothing behind it was run; its threads are on stderr")
        sys.stdout.flush()
        os._exit(1)

    with tempfile.TemporaryDirectory(prefix="trocar-doctor-") as folder:
        subject = Subject(torch.device("cuda", 0), Path(folder) / "catalog")
        outcomes = run_checks(RIGHT, subject, say, end, report)
    bad = [outcome.name for outcome in outcomes if outcome.state in BAD]
    say(f"something is wrong: {', '.join(bad)}" if bad else "all that was checked on this GPU is right")
    return not bad
