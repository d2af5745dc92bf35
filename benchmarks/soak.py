"""Do memory and open files stay flat over a long run? Loader and trainer, with both backends.

    python benchmarks/soak.py OUT [--loader-steps 20000] [--training-steps 2000] [--json soak.json]

Frames of 64 pixels and a tiny network, so that it is the number of steps that counts. While each case runs in a
process of its own, its resident memory and open file descriptors, with those of its workers, are read about a hundred
times. The slopes are by least squares over the second half, when everything has been allocated once. Exit code 1 when
memory or the number of descriptors grows by more than its limit and by more than three standard errors.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from data_factory import make_catalog
from run_factory import small_run

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe

BACKENDS = ("torch", "dali")
PARTS = ("loader", "trainer")
LIMIT = 1.0
"""MiB per 1,000 steps. At a hundred thousand steps that would be 100 MiB."""
FILES = 1.0
"""Descriptors per 1,000 steps; fewer than one per checkpoint."""
BATCH = 2
RECIPE = ViewRecipe(groups={"global": ViewGroup(count=2, size=32, scale=(0.4, 1.0))})
STEP = re.compile(r"step (\d+)\b")


@dataclass(frozen=True)
class Sample:
    """What the processes of a run hold after `step` steps: resident memory in bytes, open file descriptors."""

    step: int
    memory: int
    descriptors: int


@dataclass(frozen=True)
class Slope:
    """A rate per 1,000 steps, with its standard error."""

    value: float
    error: float

    def grows(self, limit: float) -> bool:
        """Whether it is above the limit, and not by chance."""
        return self.value > limit and self.value > 3 * self.error


def slope(steps: Sequence[int], values: Sequence[float]) -> Slope:
    """Least squares over the second half of the samples, at least four: slope per 1,000 steps and standard error."""
    half = len(steps) // 2
    x, y = np.array(steps[half:], np.float64) / 1000, np.array(values[half:], np.float64)
    if len(x) < 3:
        raise ValueError(f"{len(steps)} samples are too few for a slope with an error")
    x -= x.mean()
    value = float(x @ y / (x @ x))
    rest = y - y.mean() - value * x
    return Slope(value, float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x))))


@dataclass(frozen=True)
class Result:
    """One case."""

    part: str
    backend: str
    samples: list[Sample]

    @property
    def memory(self) -> Slope:
        """Bytes per 1,000 steps."""
        return slope([s.step for s in self.samples], [s.memory for s in self.samples])

    @property
    def late_memory(self) -> Slope:
        """The same over the last quarter: less than `memory` where what is allocated approaches a limit."""
        late = self.samples[len(self.samples) // 2 :]
        return slope([s.step for s in late], [s.memory for s in late])

    @property
    def descriptors(self) -> Slope:
        """Open files per 1,000 steps."""
        return slope([s.step for s in self.samples], [s.descriptors for s in self.samples])

    @property
    def leaks(self) -> bool:
        """Whether memory grows by more than the limit, or open files do."""
        return self.memory.grows(LIMIT * 2**20) or self.descriptors.grows(FILES)


def held(step: int, process: psutil.Process) -> Sample | None:
    """What a process and its descendants hold; None when one of them ended meanwhile."""
    try:
        family = [process, *process.children(recursive=True)]
        memory = sum(member.memory_info().rss for member in family)
        return Sample(step, memory, sum(member.num_fds() for member in family))
    except psutil.Error:
        return None


def measure(part: str, backend: str, steps: int, folder: Path, plant: bool = False) -> Result:
    """Run one case; a sample follows each line of its output that names a step."""
    if not (folder / "shards" / "catalog").is_dir():
        make_catalog(folder / "shards", 4, 250, size=(64, 64))
    every = max(1, steps // 100)
    command = [sys.executable, __file__, str(folder), "--inner", part, backend, str(steps), str(every)]
    samples = []
    with subprocess.Popen(
        command + ["--plant"] * plant, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if (found := STEP.match(line)) and (sample := held(int(found[1]), psutil.Process(process.pid))):
                samples.append(sample)
    if process.returncode:
        raise SystemExit(f"{part} with {backend} failed:\n{''.join(said[-20:])}")
    return Result(part, backend, samples)


def load(folder: Path, backend: Backend, steps: int, every: int, plant: bool) -> None:
    """The loader's case; a planted leak keeps batches and opens files."""
    catalog = Catalog.open(folder / "shards")
    plan = Plan(Composition(curate="none").resolve(catalog), BATCH, 0)
    loader = Loader(plan, ViewPlan(RECIPE, 0), Reader(catalog), (0.5,) * 3, (0.25,) * 3, workers=1, backend=backend)  # type: ignore[arg-type]
    kept: list[object] = []
    for batch in loader.iterate(0, steps):
        if plant:
            kept.append((bytearray(2**16), (folder / "leak").open("w")))
        if batch.step % every == 0:
            print(f"step {batch.step}", flush=True)


def train(folder: Path, backend: str, steps: int, every: int) -> None:
    """The trainer's case: `trocar pretrain`, which prints a line every ten times `log_every` steps."""
    from trocar.cli.main import main

    views = {"global": {"count": 2, "size": 32, "scale": [0.4, 1.0]}, "local": None}
    config = small_run(
        folder / "shards",
        folder / f"run-{backend}",
        data={"catalog": str(folder / "shards"), "backend": backend, "composition": {"curate": "none"}},
        backbone={"name": "test_resnet"},
        method={"name": "dino", "views": views, "head": {"prototypes": 32, "hidden": 32, "bottleneck": 16}},
        train={"batch": BATCH, "steps": steps},
        run={"workers": 1, "log_every": max(1, every // 10), "checkpoint_every": max(1, steps // 10)},
    )
    path = folder / f"{backend}.yaml"
    path.write_text(yaml.safe_dump(config))
    raise SystemExit(main(["pretrain", str(path)]))


def in_kib(found: Slope) -> str:
    """A slope in bytes, as KiB."""
    return f"{found.value / 1024:.1f} ± {found.error / 1024:.1f}"


def table(results: Iterable[Result]) -> list[str]:
    """Markdown."""
    lines = [
        "| part | backend | steps | MiB at half | at the end | KiB / 1,000 steps | last quarter | open files | slope |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        middle, last = result.samples[len(result.samples) // 2], result.samples[-1]
        memory, files, late = result.memory, result.descriptors, result.late_memory
        numbers = f"{middle.memory / 2**20:.1f} | {last.memory / 2**20:.1f} | {in_kib(memory)} | {in_kib(late)}"
        counts = f"{last.descriptors} | {files.value:.2f} ± {files.error:.2f}"
        lines.append(f"| {result.part} | {result.backend} | {last.step:,} | {numbers} | {counts} |")
    return lines


def main() -> None:
    """Run all cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the catalog and the runs; must be new")
    parser.add_argument("--loader-steps", type=int, default=20_000)
    parser.add_argument("--training-steps", type=int, default=2_000)
    parser.add_argument("--json", type=Path, help="all samples and slopes")
    parser.add_argument("--inner", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--plant", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        part, backend, steps, every = args.inner
        if part == "loader":
            load(args.out, backend, int(steps), int(every), args.plant)
        else:
            train(args.out, backend, int(steps), int(every))
        return
    args.out.mkdir(parents=True)
    lengths = dict(zip(PARTS, (args.loader_steps, args.training_steps), strict=True))
    results = [measure(part, backend, lengths[part], args.out) for part in PARTS for backend in BACKENDS]
    print("\n".join(table(results)))
    if args.json is not None:
        rows = [{**asdict(r), "memory": asdict(r.memory), "descriptors": asdict(r.descriptors)} for r in results]
        args.json.write_text(json.dumps(rows, indent=1))
    sys.exit(any(result.leaks for result in results))


if __name__ == "__main__":
    main()
