"""The checks in order of value: what could be wrong first, then what could be slow."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

from trocar.core.messages import Say
from trocar.diagnostics.gpu import pictures, speed, training
from trocar.diagnostics.gpu.machine import machine
from trocar.diagnostics.gpu.runner import BAD, CheckFindings, GpuCheck, Subject, run_checks
from trocar.errors import ConfigError


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
