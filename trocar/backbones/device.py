"""Where a model runs: `auto` is a GPU where torch sees one, and never the CPU by mistake.

What a network computes in: a setting `precision` resolved for a device, and TF32 for what stays float32.

Memory that a device or the system refuses: how it is told from other errors, and as a sentence for people.

What a run ran on, for its record: processor, GPU, and the libraries between.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from trocar.errors import ConfigError, TrocarError

DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")
NONE = ("", "-1", "NoDevFiles")
"""What CUDA_VISIBLE_DEVICES begins with where GPUs are hidden, by a user or (the last) by SLURM."""


def choose_device(wanted: str, option: str = "device") -> str:
    """`auto`, `cpu` or `cuda` -> `cpu` or `cuda`. `option` is what a user calls the setting.

    Raises ConfigError for a GPU that isn't there, and for `auto` where GPUs are there or were allocated and torch sees
    none: what then ran on the CPU would look like a slow GPU for days.
    """
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda" if wanted == "auto" else wanted
    sign = allocated()
    if sign:
        raise ConfigError(
            f"there are GPUs here ({sign}), but torch sees none: {_versions()}. docs/gpu.md has the wheel of torch for "
            f"each driver; `trocar doctor` tries it. {option}=cpu runs on the CPU all the same"
        )
    if wanted != "auto":
        raise ConfigError(f"{option}={wanted}, but torch sees no GPU; use {option}=cpu")
    return "cpu"


def allocated(environ: Mapping[str, str] = os.environ) -> str:
    """What says that this process was given GPUs, for a message; "" if nothing does, or if they are hidden from it."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return "" if _is_none(visible) else f"CUDA_VISIBLE_DEVICES={visible}"
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        if environ.get(name):
            return f"{name}={environ[name]}"
    nodes = [node for node in _nodes() if _may_open(node)]
    return ", ".join(map(str, nodes[:2])) + (" ..." if len(nodes) > 2 else "")


def hidden(environ: Mapping[str, str] = os.environ) -> str:
    """How GPUs that are there have been hidden from this process; "" if they are not, or if there are none."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={visible!r}" if visible is not None and _is_none(visible) and _nodes() else ""


def _is_none(visible: str) -> bool:
    # CUDA reads the list up to the first entry that is no device.
    return visible.split(",")[0].strip() in NONE


def _nodes() -> list[Path]:
    return sorted(path for path in DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))


def _may_open(node: Path) -> bool:
    """False where a cluster shows the file of a GPU that another job has; a driver that is broken is no such case."""
    try:
        os.close(os.open(node, os.O_RDONLY))
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def driver() -> str | None:
    """The version of the NVIDIA driver that the kernel has loaded, None if there is none."""
    try:
        text = DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None


def _versions() -> str:
    has = driver()
    loaded = f"driver {has}" if has else "no NVIDIA driver is loaded"
    cuda = torch.version.cuda
    built = f"torch {torch.__version__} is built " + (f"for CUDA {cuda}" if cuda else "without CUDA")
    return f"{loaded}; {built}"


Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]


def resolved(wanted: Wanted, device: torch.device, option: str = "precision") -> Precision:
    """`auto` is bfloat16 on a GPU that has it (NVIDIA's since Ampere), float32 on all others and on a CPU.

    `option` is what a user calls the setting. Raises ConfigError for bfloat16 on a GPU without it, where torch would
    compute in float32 and round.
    """
    if device.type != "cuda":
        return "float32" if wanted == "auto" else wanted
    if wanted == "float32":
        return wanted
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0) and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    if wanted == "bfloat16":
        major, minor = capability
        raise ConfigError(
            f"{option}: bfloat16, but {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) "
            f"can't compute in it: torch would emulate it, slower than float32. Set {option} to float32, or to "
            f"auto, which takes bfloat16 where the card has it"
        )
    return "float32"


def allow_tf32(device: torch.device) -> None:
    """Let products of float32 matrices on a GPU round their factors to TF32's 10 bits, as its convolutions do anyway.

    For the whole process. Nothing changes on a CPU, and on a GPU without TF32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within, products are computed in `precision`; weights and what is not a product stay what they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def float32_means_float32(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within, TF32 is allowed on a GPU where `precision` is bfloat16, and nowhere else; then it is as it was before.

    Who asks for float32 on a card that has bfloat16 asks for the numbers of other machines, and torch by itself lets
    convolutions round their factors to TF32's 10 bits. Beside products in bfloat16, of 7 bits, TF32 loses nothing.
    """
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rounded = precision == "bfloat16"
    try:
        torch.set_float32_matmul_precision("high" if rounded else "highest")
        torch.backends.cudnn.allow_tf32 = rounded
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


# What is no torch.OutOfMemoryError: the CPU's allocator, and libraries and kernels that allocate for themselves.
_SAID = (
    "DefaultCPUAllocator: ",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


Found = TypeVar("Found")


class Halves:
    """Computes on images in as large parts as there is memory for: the first time that there is none, and from then on
    with every batch, in halves of what was tried. Not `enabled`, memory that is refused is an error.
    """

    def __init__(self, device: torch.device, enabled: bool) -> None:
        self.device, self.enabled = device, enabled
        self._most: int | None = None

    def __call__(self, compute: Callable[[Tensor], Found], images: Tensor) -> Iterator[Found]:
        """What `compute`, which never gives None, gives for one part of `images` [b, ...] after another."""
        start = 0
        while start < len(images):
            at_once = min(len(images) - start, self._most or len(images))
            found = None
            try:
                found = compute(images[start : start + at_once])
            except (RuntimeError, MemoryError) as error:
                if not (self.enabled and at_once > 1 and is_out_of_memory(error)):
                    raise
            if found is not None:
                yield found
                start += at_once
                continue
            self._most = at_once // 2
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # blocks of the size before, which the halves don't fit into


@contextmanager
def explained(remedy: Callable[[], str]) -> Iterator[None]:
    """Within, memory that is refused is a TrocarError: what was said, and `remedy()`, a sentence with the settings that
    the memory depends on and the values they have.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrocarError(f"out of memory ({said}). {remedy()}") from error


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
