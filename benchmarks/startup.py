"""Time and memory from `trocar pretrain` to its first step, on a catalog of five million rows.

    python benchmarks/startup.py OUT

Runs the real command in a fresh process each time, imports included; medians of `--repeats`. The reference is a process
that only imports torch, torchvision and timm. Anonymous memory of the data side is measured in a process that resolves
the default composition and reads a batch, against one that has made the same imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from synthetic_catalog import write_synthetic

IMPORTS = "import torch, torchvision, timm"
ANONYMOUS = """
import sys
import trocar.ssl.run.pretrain
from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.loading.reader import Reader
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith("RssAnon:")) / 1024
before = anonymous()
catalog = Catalog.open(sys.argv[1])
selection = Composition().resolve(catalog)
plan = Plan(selection, 256, 0)
reader = Reader(catalog)
for row in plan.rows(0).tolist():
    reader.read(row)
print(len(selection), anonymous() - before)
"""


def first_step(catalog: Path, out: Path) -> float:
    """Seconds until the first step has been logged."""
    words = [f"data.catalog={catalog}", f"run.out={out}", "train.steps=1", "run.log_every=1", "tracking.uri=none"]
    command = [sys.executable, "-m", "trocar", "pretrain", "small_dino", *words]
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            logged = list((out / "metrics").glob("*.jsonl"))
            if logged and logged[0].stat().st_size:
                seconds = time.perf_counter() - started
                process.wait()
                return seconds
            time.sleep(0.02)
    raise SystemExit(f"`{' '.join(command)}` failed with exit code {process.returncode}")


def imports() -> float:
    """Seconds of a process that only imports the libraries."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - started


def bare_import(repeats: int = 9) -> float:
    """Seconds that `import trocar` adds to an interpreter: the median of pairs."""

    def seconds(program: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - started

    return statistics.median(seconds("import trocar") - seconds("pass") for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    catalog = args.out / "catalog-root"
    if not (catalog / "catalog").is_dir():
        write_synthetic(catalog, args.rows, args.videos)
    pairs = [(imports(), first_step(catalog, args.out / f"run-{time.time_ns()}")) for _ in range(args.repeats)]
    reference, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    measured = subprocess.run(
        [sys.executable, "-c", ANONYMOUS, str(catalog)], check=True, capture_output=True, text=True
    )
    rows, memory = measured.stdout.split()
    print(f"rows in the catalog             {args.rows}, selected {rows}")
    print(f"`import trocar`                 {1000 * bare_import():.0f} ms over an interpreter that does nothing")
    print(f"imports alone (reference)       {reference:.1f} s")
    print(f"command to first step           {ours:.1f} s, {ours / reference:.1f} x the reference")
    print(f"anonymous memory, data side     {float(memory):.0f} MiB")


if __name__ == "__main__":
    main()
