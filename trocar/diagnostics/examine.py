"""All checks in order, printed as they are done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trocar.diagnostics import checks
from trocar.diagnostics.checks import Check

if TYPE_CHECKING:
    import torch

    from trocar.data.catalog.catalog import Catalog

Say = Callable[[str], None]
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
    machine = (checks.python, checks.pages, checks.shared_memory, checks.packages, checks.cuda)
    for check in (test() for test in (*machine, checks.ffmpeg, checks.mlflow, checks.slurm, checks.dali)):
        needed_ok &= check.state != "failed" or check.name not in ("packages", "cuda")
        yield check
    if needed_ok:
        yield from _decoding(root)


def _decoding(root: Path | None) -> Iterator[Check]:
    from trocar.data.catalog.catalog import Catalog
    from trocar.diagnostics.textured_frames import write_frames

    with tempfile.TemporaryDirectory(prefix="trocar-doctor-") as folder:
        catalog = Catalog.open(root) if root is not None else write_frames(Path(folder) / "shards")
        yield _loading(catalog)
        yield from _parities(catalog)


def _loading(catalog: Catalog) -> Check:
    import torch

    from trocar.diagnostics.textured_frames import loader_of
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

    from trocar.diagnostics.backend_parity import CROP_BOUND, measure
    from trocar.diagnostics.textured_frames import loader_of

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
