"""Private memory of a loader worker, beside that of a process that only imports torch and torchvision.

    python benchmarks/loader_memory.py OUT [--batch 32] [--steps 12]

USS (private clean + private dirty pages of /proc/PID/smaps_rollup) of the forked worker, sampled while it works on
frames of 854x480 with DINO's views (2 x 224, 8 x 96); the largest sample counts. The process that forks it keeps freed
memory and is on huge pages, as `trocar pretrain` is. Limit: 150 MiB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from data_factory import make_catalog

from trocar.core import resources
from trocar.diagnostics.bench.loader import our_batches

LIMIT = 150.0


def uss(pid: int) -> float:
    """Private memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def imports_only() -> float:
    """USS of a process that only imports torch and torchvision, in MiB."""
    source = "import torch, torchvision; print(open('/proc/self/smaps_rollup').read())"
    text = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024


def run(shards: Path, batch: int, steps: int) -> None:
    """Load `steps` batches with one worker and print images per second."""
    resources.keep_freed()
    started = time.perf_counter()
    for _ in islice(our_batches("torch", shards, 1, batch), steps):
        pass
    print(f"{batch * steps / (time.perf_counter() - started):.1f} images/s")


def samples_of(process: subprocess.Popen[bytes]) -> list[float]:
    """USS in MiB of the children of a process, sampled until it ends."""
    samples = []
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            try:
                samples.append(uss(child.pid))
            except OSError:
                continue
        time.sleep(0.02)
    return samples


def main() -> None:
    """Print the figures; exit 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the catalog; made if it is not there")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shards = args.out / "shards-854"
    if not (shards / "catalog").is_dir():
        make_catalog(shards, 4, 100, size=(854, 480))
    if args.inner:
        run(shards, args.batch, args.steps)
        return
    reference = imports_only()
    # The loader runs in a process of its own: one that samples in a thread would fork with that thread running.
    with subprocess.Popen([sys.executable, *sys.argv, "--inner"], env=resources.with_huge_pages(os.environ)) as process:
        samples = samples_of(process)
    peak, middle = max(samples), float(np.median(samples))
    print(f"imports only {reference:.0f} MiB, worker USS peak {peak:.0f} MiB, median {middle:.0f} MiB")
    print(f"a worker shares the imports with the trainer: all of its peak counts, limit {LIMIT:.0f} MiB")
    sys.exit(process.returncode or peak > LIMIT)


if __name__ == "__main__":
    main()
