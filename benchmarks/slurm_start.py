"""Seconds from submission to the first training step on an idle cluster, and how many of them are Trocar's own.

    python benchmarks/slurm_start.py PROFILE [--out FOLDER] [key=value ...]

The first row is the command on the submitting machine, up to sbatch's answer; then SLURM's and submitit's part, up to
our first line in the job; then imports, the catalog, the model and the meeting of the ranks; then the first step.
Trocar's own share is all but SLURM's and submitit's part; both of its rows begin with importing torch. References: a
job of submitit that does nothing, and a process that imports torch, torchvision and timm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trocar.runs.run_folder import read_rows
from trocar.slurm import job_states
from trocar.slurm.executor import slurm_executor
from trocar.slurm.job_states import Submission, submitted_for, wait
from trocar.slurm.profile import Profile, load_profile

TINY = {
    "backbone.name": "resnet10t",
    "method.head.prototypes": 64,
    "train.steps": 1,
    "train.batch": 8,
    "run.workers": 0,
    "run.log_every": 1,
    "data.composition.curate": "none",
    "tracking.uri": "none",
}


@dataclass(frozen=True)
class Times:
    """Unix seconds."""

    typed: float
    sbatch: float
    in_job: float
    trained: float

    def rows(self) -> list[tuple[str, float]]:
        """What took how long."""
        return [
            ("command, up to sbatch's answer", self.sbatch - self.typed),
            ("SLURM and submitit, up to Trocar in the job", self.in_job - self.sbatch),
            ("Trocar in the job, up to the end of step 1", self.trained - self.in_job),
            ("together", self.trained - self.typed),
            ("of it Trocar's own", self.sbatch - self.typed + self.trained - self.in_job),
        ]


def measure(profile: str, out: Path, overrides: list[str]) -> Times:
    """Submit one tiny run with the command line, as a user does, and wait for it."""
    words = [f"{key}={value}" for key, value in TINY.items()] + overrides
    places = [f"data.catalog={out / 'shards'}", f"run.out={out / 'run'}"]
    command = [sys.executable, "-m", "trocar", "pretrain", "small_dino", *words, *places, "--slurm", profile]
    typed = time.time()
    subprocess.run(command, check=True)
    (job,) = submitted_for(out / "run")
    sbatch = (Path(job.folder) / f"{job.job}.job.json").stat().st_mtime
    _finished(job)
    begun = job_states.read(Path(job.folder), job.job)[0]["time"]
    return Times(typed, sbatch, begun, read_rows(out / "run")[0].time)


def bare(profile: Profile, out: Path) -> float:
    """Seconds of a job that does nothing, as submitit sees it: from its call to the result."""
    started = time.time()
    slurm_executor(profile.single(), out / "bare", "bare").submit(int).result()
    return time.time() - started


def _finished(job: Submission) -> None:
    state = wait(job, 900)
    if state.state != "COMPLETED":
        raise SystemExit(f"job {job.job} is {state.state}: {job.log()}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--out", type=Path, default=Path("slurm-start"))
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    from trocar.diagnostics.backend_parity import write_frames

    out = args.out.absolute() / time.strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True)
    write_frames(out / "shards")
    for name, seconds in measure(args.profile, out, args.overrides).rows():
        print(f"{name:46s} {seconds:6.1f} s")
    print(f"{'a job that does nothing (submitit alone)':46s} {bare(load_profile(args.profile), out):6.1f} s")
    started = time.time()
    subprocess.run([sys.executable, "-c", "import torch, torchvision, timm"], check=True)
    print(f"{'import torch, torchvision, timm':46s} {time.time() - started:6.1f} s")


if __name__ == "__main__":
    main()
