"""What is there: versions, driver, shared memory, the JPEG engine, one product."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from trocar.data.loading.dali_pipeline import is_available
from trocar.diagnostics.gpu.runner import CheckFindings, Subject
from trocar.ssl.run.hardware import gpu_facts

PACKAGES = ("torch", "torchvision", "timm", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def machine(subject: Subject) -> CheckFindings:
    """Everything that a figure on this machine has to be read with; passes if a product of ones is right."""
    size = 64 if subject.tiny else 4096
    product = torch.ones(size, size, device=subject.device) @ torch.ones(size, size, device=subject.device)
    right = bool((product == size).all())
    values: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "cores": len(os.sched_getaffinity(0)),
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
