"""Where a model runs: `auto` is a GPU where torch sees one, and never the CPU by mistake."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from trocar.errors import ConfigError

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
