"""The checks of `trocar doctor`, one function each. None of them raises: what does not work is the answer.

All checks in order, printed as they are done.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trocar.core import resources
from trocar.core.messages import Say

if TYPE_CHECKING:
    import torch

    from trocar.data.catalog.catalog import Catalog


State = Literal["ok", "absent", "failed"]
"""`absent`: not there, and not needed for a run on a CPU. `failed`: needed, or there but not working."""


@dataclass(frozen=True)
class Check:
    """One line of the report; `remedy` says what to do when it isn't ok."""

    name: str
    state: State
    found: str
    remedy: str = ""


IMPORTED = ("torch", "torchvision", "torchcodec", "timm", "av", "pyarrow", "PIL")
"""With native code that can be there and not load: imported, which takes most of the time of `trocar doctor`."""
INSTALLED = ("lightly", "pandas", "scikit-learn", "pydantic", "safetensors")

SHARED = "/dev/shm"
ENOUGH_GIB = 1
"""docker gives 64 MiB, and a machine half of its memory."""

_DISTRIBUTIONS = {"PIL": "pillow"}
SLURM = ("sbatch", "sacct", "sinfo")


def python() -> Check:
    """Interpreter and processor."""
    usable = resources.usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS")
    set_to = f", OMP_NUM_THREADS={threads}" if threads else ""
    found = f"Python {platform.python_version()}, {os.cpu_count()} cores, {usable} usable{set_to}"
    return Check("python", "ok", found)


def pages() -> Check:
    """Whether training on a CPU gets huge pages."""
    try:
        setting = resources.SETTING.read_text(encoding="ascii").strip()
    except OSError:
        return Check("pages", "absent", "no transparent huge pages here", "only a matter of speed, on a CPU")
    if "[never]" in setting:
        remedy = f"training on a CPU is slower without them: echo madvise | sudo tee {resources.SETTING}"
        return Check("pages", "absent", f"huge pages: {setting}", remedy)
    return Check("pages", "ok", f"huge pages: {setting}")


def shared_memory() -> Check:
    """Whether /dev/shm, in which loader workers hand batches over, is larger than a container's.

    What a run needs of it depends on its batch; a run compares both when it starts.
    """
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return Check("/dev/shm", "absent", f"no {SHARED} here", "run.workers=0 needs none")
    gib = found.f_frsize * found.f_blocks / 2**30
    text = f"{SHARED}: {gib:,.2f} GiB for batches of loader workers"
    if gib < ENOUGH_GIB:
        remedy = "enough for small batches; docker run --shm-size=16g (or --ipc=host), or a smaller run.workers"
        return Check("/dev/shm", "absent", text, remedy)
    return Check("/dev/shm", "ok", text)


def packages() -> Check:
    """Whether what a run on a CPU needs is there."""
    versions, broken = [], [f"{name} (not installed)" for name in INSTALLED if _version(name) == "?"]
    for module in IMPORTED:
        try:
            importlib.import_module(module)
        except Exception as error:  # a wheel for another machine fails in its own ways
            broken.append(f"{module} ({type(error).__name__}: {error})")
        else:
            versions.append(f"{module} {_version(module)}")
    if broken:
        return Check("packages", "failed", "; ".join(broken), "pip install --force-reinstall trocar")
    return Check("packages", "ok", ", ".join(versions))


def cuda() -> Check:
    """Whether torch can compute on a GPU, tried with one product."""
    try:
        import torch
    except Exception as error:
        return Check("cuda", "failed", f"torch can't be imported: {error}", "pip install --force-reinstall torch")
    if not torch.cuda.is_available():
        from trocar.backbones.device import choose_device
        from trocar.errors import ConfigError

        built = torch.version.cuda
        try:
            choose_device("auto")
        except ConfigError as error:  # there is one, and a run would end with these words
            return Check("cuda", "failed", str(error), "docs/gpu.md, Installation, has driver and wheel side by side")
        remedy = (
            f"a run uses the CPU; for a GPU check that `nvidia-smi` works and its driver is new enough for CUDA {built}"
            if built
            else "a run uses the CPU; this torch is built without CUDA"
        )
        return Check("cuda", "absent", "torch sees no GPU", remedy)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = f"CUDA {torch.version.cuda}, {_nccl()}, {len(names)} GPU(s): {', '.join(sorted(set(names)))}"
    try:
        value = float((torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum())
    except RuntimeError as error:
        return Check("cuda", "failed", f"{found}; a product fails: {error}", "install the torch built for this GPU")
    good = value == 512
    return Check("cuda", "ok" if good else "failed", found, "" if good else "the GPU computes wrong results")


def _nccl() -> str:
    from trocar.backbones.device import nccl_version

    return f"NCCL {nccl_version() or 'not in this torch'}"


def dali() -> Check:
    """Whether DALI can be imported."""
    from trocar.data.loading.dali_pipeline import INSTALL, is_available

    if not is_available():
        return Check("dali", "absent", "nvidia.dali can't be imported; frames are decoded by CPU workers", INSTALL)
    return Check("dali", "ok", f"nvidia.dali {getattr(importlib.import_module('nvidia.dali'), '__version__', '?')}")


def slurm() -> Check:
    """Whether jobs can be submitted from here."""
    paths = {name: shutil.which(name) for name in SLURM}
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(SLURM):
        return Check("slurm", "absent", "no SLURM commands on the PATH", "only needed on a cluster; load its module")
    if missing:
        return Check(
            "slurm", "failed", f"{', '.join(missing)} not on the PATH", "load the cluster's SLURM module whole"
        )
    return _run("slurm", ["sinfo", "--version"], "is the SLURM controller reachable from here?")


def mlflow() -> Check:
    """Whether metrics can be shown in mlflow."""
    try:
        version = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return Check("mlflow", "absent", "not installed", "pip install 'trocar[mlflow]', or run with tracking.uri=none")
    return Check("mlflow", "ok", f"mlflow {version}; metrics.jsonl is written whether it works or not")


def ffmpeg() -> Check:
    """The libraries that PyAV brings; no program is needed."""
    try:
        import av

        codec = av.codec.Codec("h264", "r").name
    except Exception as error:
        return Check("ffmpeg", "failed", f"PyAV does not work: {error}", "pip install --force-reinstall av")
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    return Check("ffmpeg", "ok", f"PyAV {av.__version__} with libavcodec {version}, decoder {codec}")


def _run(name: str, command: list[str], remedy: str) -> Check:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name, "failed", f"{command[0]}: {error}", remedy)
    text = (done.stdout or done.stderr).strip().splitlines()
    first = text[0] if text else "no answer"
    if done.returncode:
        return Check(name, "failed", f"{' '.join(command)} exits {done.returncode}: {first}", remedy)
    return Check(name, "ok", first)


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "?"


MARKS = {"ok": "ok      ", "absent": "absent  ", "failed": "FAILED  "}


def examine(say: Say, root: Path | None = None) -> bool:
    """Run every check and print it; True unless something that is needed, or is there, does not work.

    `root`: a shards folder whose frames the parity check uses. Raises ConfigError where there is no catalog.
    """
    failed = False
    for check in all_checks(root):
        failed |= check.state == "failed"
        say(f"{MARKS[check.state]}{check.name:12}{check.found}")
        if check.remedy:
            say(f"{'':20}-> {check.remedy}")
    say("something is wrong, see FAILED" if failed else "all that is needed for a run on a CPU works")
    return not failed


def all_checks(root: Path | None = None) -> Iterator[Check]:
    """The checks, one after the other; backends are compared if packages and GPU work."""
    needed_ok = True
    machine = (python, pages, shared_memory, packages, cuda)
    for check in (test() for test in (*machine, ffmpeg, mlflow, slurm, dali)):
        needed_ok &= check.state != "failed" or check.name not in ("packages", "cuda")
        yield check
    if needed_ok:
        yield from _decoding(root)


def _decoding(root: Path | None) -> Iterator[Check]:
    from trocar.data.catalog.catalog import Catalog
    from trocar.diagnostics.backend_parity import write_frames

    with tempfile.TemporaryDirectory(prefix="trocar-doctor-") as folder:
        catalog = Catalog.open(root) if root is not None else write_frames(Path(folder) / "shards")
        yield _loading(catalog)
        yield from _parities(catalog)


def _loading(catalog: Catalog) -> Check:
    import torch

    from trocar.diagnostics.backend_parity import loader_of
    from trocar.errors import TrocarError

    try:
        batch = loader_of(catalog, "torch", torch.device("cpu")).batch(0)
    except TrocarError as error:
        return Check("frames", "failed", str(error))
    if batch.bad:
        return Check("frames", "failed", f"{len(batch.bad)} bad frame(s); first: {batch.bad[0].reason}")
    return Check("frames", "ok", f"{len(batch.rows)} frames read, decoded and augmented on the CPU")


def _parities(catalog: Catalog) -> Iterator[Check]:
    import torch

    from trocar.data.loading.dali_pipeline import is_available
    from trocar.diagnostics.backend_parity import DEFAULT_LOAD, LOADS

    if is_available():
        yield _parity(catalog, torch.device("cpu"))
        if torch.cuda.is_available():
            for load in LOADS:
                found = _parity(catalog, torch.device("cuda", 0), load)
                found = replace(found, found=f"hw_decoder_load {load:g}: {found.found}")
                if found.state == "failed" and load != DEFAULT_LOAD:
                    remedy = f"leave data.hw_decoder_load at {DEFAULT_LOAD:g} on this GPU, and report this line"
                    found = replace(found, state="absent", remedy=remedy)
                yield found


def _parity(catalog: Catalog, device: torch.device, hw_decoder_load: float = 0.0) -> Check:
    """The torch backend on the CPU against DALI on `device`."""
    import torch

    from trocar.diagnostics.backend_parity import CROP_BOUND, loader_of, measure

    name = f"parity {device.type}"
    try:
        other = loader_of(catalog, "dali", device, hw_decoder_load)
        found = measure(loader_of(catalog, "torch", torch.device("cpu")), other)
    except Exception as error:  # a driver, a decoder, a frame: whatever it is, data.backend=dali won't work
        return Check(name, "failed", f"{type(error).__name__}: {error}", "use data.backend=torch")
    text = (
        f"torch and DALI on {found.frames} frames, {found.views} views: crops p99.9 {found.crop_p999:.0f}/255 "
        f"(bound {CROP_BOUND:.0f}), max {found.crop_max:.0f}, "
        f"at borders of up to {found.border} px {found.edge_max:.0f}; "
        f"views p99.9 {found.view_p999:.1f}/255, at most {found.view_share:.2f} of their bound"
    )
    problems = found.problems()
    if problems:
        return Check(name, "failed", f"{text}; {'; '.join(problems)}", "use data.backend=torch, and report this line")
    return Check(name, "ok", text)
