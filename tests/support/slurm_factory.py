"""Tiny jobs on the cluster of the tests, and waiting for what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from run_factory import small_run

from trocar.runs.run_folder import read_metrics
from trocar.slurm import job_states
from trocar.slurm.job_states import Submission

PIDS = Path(os.environ.get("SLURM_UP_DIR", "/var/tmp/trocar-slurm")) / "pids"
DINO = {
    "backbone": {"name": "test_convnext", "drop_path": 0.2},
    "method": {
        "name": "dino",
        "views": {"global": {"count": 2, "size": 32}, "local": {"count": 2, "size": 32}},
        "head": {"prototypes": 32, "hidden": 32, "bottleneck": 16},
        "freeze_last_layer": "3 steps",
    },
    "optim": {"lr": 0.02, "warmup": "2 steps"},
}


def write_config(shards: Path, out: Path, steps: int, **run: Any) -> Path:
    """A run of `steps` steps that saves each third."""
    train = {"batch": 8, "steps": steps}
    tree = small_run(shards, out, **DINO, train=train, run={"workers": 1, "checkpoint_every": 3, **run})
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def write_profile(folder: Path, **fields: Any) -> str:
    """A profile for the cluster of the tests."""
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump({"time_min": 10, **fields}))
    return str(path)


def ask(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def state(job: str) -> str:
    """By squeue, which is never behind."""
    return ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")


def until(what: str, is_so: Callable[[], Any], limit_s: float = 150.0) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + limit_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"not after {limit_s:.0f} s: {what}"
        time.sleep(0.2)
    return found


def until_state(job: str, *wanted: str, limit_s: float = 150.0) -> str:
    """Wait for a job to be in one of these states; a job that ended otherwise shows its log."""
    ended = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"} - set(wanted)

    def now() -> str | None:
        found = state(job)
        assert found not in ended, f"job {job} is {found}, not {wanted}"
        return found if found in wanted else None

    return str(until(f"job {job} is {' or '.join(wanted)}", now, limit_s))


def until_step(run: Path, step: int, attempt: int = 1, limit_s: float = 150.0) -> None:
    """Wait until the run's attempt number `attempt` has logged a step."""
    file = run / "metrics" / f"{attempt:04d}.jsonl"
    until(
        f"{run} attempt {attempt} is at step {step}",
        lambda: file.is_file() and any(row["step"] >= step for row in read_metrics(run)),
        limit_s,
    )


def only_job(out: Path) -> Submission:
    """The one job that was submitted for an output folder."""
    (submission,) = job_states.submitted_for(out)
    return submission


def node_pids(node: str) -> set[int]:
    """A virtual node's slurmd, its slurmstepds, and the processes of all its jobs."""
    pids = {int((PIDS / f"slurmd-{node}").read_text().split()[0])}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                pids.add(int(entry.name))
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                    pids.add(int(parent))
        except OSError:
            continue
    return pids


def rank_pids(job: str) -> list[int]:
    """The processes of a job's ranks, without their loader workers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"submitit.core._submit" in words and f"SLURM_JOB_ID={job}".encode() in (entry / "environ").read_bytes():
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def wake_when_asked(pids: list[int]) -> bool:
    """Let stopped processes go on once each has a SIGUSR2 waiting, or has been woken with it, as 22.05 does."""
    if not all(_is_asked(pid) for pid in pids):
        return False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return True


def _is_asked(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # it has saved and is gone
    fields = dict(line.split(":", 1) for line in status.splitlines())
    pending = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return bool(pending & 1 << (signal.SIGUSR2 - 1)) or fields["State"].split()[0] != "T"
