"""Every method on small data and small hardware: is its backbone better than the random weights it started from?

    python benchmarks/methods.py OUT [--method simclr] [--seeds 3] [--lanes 2] [--corpus A]
    python benchmarks/methods.py OUT --frames CHOLECT50 [--method dino] [--seeds 3] [--lanes 2]

Makes a phantom (96 cases, 36 of them to train on), pretrains each recipe of benchmarks/methods/ on its training cases
and evaluates the runs on the test cases; with `--frames` (a folder in CholecT50's layout) it pretrains on all frames of
that folder instead, unlabelled, and evaluates by leaving one video out. All recipes cost about the same computation,
as counted by `trocar pretrain --dry-run`. The table has the mean and standard deviation over runs and over draws of
random weights of the same architecture, and their difference in pooled standard deviations. Run again, it continues.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from phantom_split import add_corpus, described, in_lanes, make_phantom, trocar

RECIPES = Path(__file__).parent / "methods"
METHODS = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem != "base")
TASKS = (("phase", "knn"), ("phase", "linear"), ("tools", "knn"), ("tools", "linear"))
DRAWS = 6  # of random weights: their spread is half of every comparison


@dataclass(frozen=True)
class Bench:
    """One benchmark's folder; `frames` is the labelled folder to use in place of a phantom."""

    out: Path
    frames: Path | None
    cases: int
    seeds: int
    lanes: int
    corpus: str

    @property
    def data(self) -> Path:
        """What is evaluated on."""
        return self.frames or self.out / "phantom"

    def prepare(self) -> None:
        """Shards of the frames that are pretrained on."""
        if self.frames is None:
            make_phantom(self.data, self.out / "shards", self.cases, self.corpus)
            return
        pattern = ["--frames", "{number:06d}.jpg", "--frames-fps", "1", "--first-number", "0", "--short-side", "160"]
        trocar("ingest", str(self.frames / "videos"), *pattern, "--out", str(self.out / "shards"))

    def pretrain(self, methods: list[str]) -> None:
        """All runs, `lanes` at a time, one thread each; a distilled run after the one it learns from."""
        for wave in ([m for m in methods if m != "distillation"], [m for m in methods if m == "distillation"]):
            in_lanes(self.lanes, self._run, [(method, seed) for seed in range(self.seeds) for method in wave])

    def run_folder(self, method: str, seed: int) -> Path:
        """Where a run is."""
        return self.out / "runs" / f"{method}-{seed}"

    def _run(self, run: tuple[str, int]) -> None:
        method, seed = run
        words = [f"data.catalog={self.out / 'shards'}", f"run.out={self.run_folder(method, seed)}", f"run.seed={seed}"]
        if self.frames is None:
            words.append("data.composition.include=[{split: [train]}]")
        if method == "distillation":
            words.append(f"method.teacher.name={self.run_folder('simclr', seed)}")
        trocar("pretrain", str(RECIPES / f"{method}.yaml"), *words)

    def evaluate(self, method: str) -> None:
        """The runs of one method and random weights, unless these runs have been evaluated."""
        target = self.out / "evaluation" / method
        members = ",".join(str(self.run_folder(method, seed)) for seed in range(self.seeds))
        if (target / "results.json").exists() and (target / "runs.txt").read_text() == members:
            return
        words = ["--task", "phase", "--task", "tools", "--protocol", "knn", "--protocol", "linear"]
        cache = ["--cache", str(self.out / "cache"), "--seeds", str(DRAWS), "--size", "96"]
        where = ["--data", str(self.data), "--out", str(target)]
        trocar("evaluate", "baselines=[random]", "--backbone", f"{method}={members}", *where, *words, *cache)
        (target / "runs.txt").write_text(members)

    def rows(self, method: str) -> list[str]:
        """Cells of the table: trained, random, and the difference in pooled standard deviations, per task."""
        found = json.loads((self.out / "evaluation" / method / "results.json").read_text())["rows"]
        return [_cell(found, method, task, protocol) for task, protocol in TASKS]


def _cell(rows: list[dict[str, Any]], method: str, task: str, protocol: str) -> str:
    mine = [row for row in rows if (row["task"], row["protocol"]) == (task, protocol)]
    (trained,) = (np.array(row["metrics"][row["headline"]]["values"]) for row in mine if row["backbone"] == method)
    (random,) = (np.array(row["metrics"][row["headline"]]["values"]) for row in mine if row["kind"] == "random")
    text = f"{trained.mean():.3f}" + (f" ± {trained.std(ddof=1):.3f}" if len(trained) > 1 else "")
    text += f" / {random.mean():.3f} ± {random.std(ddof=1):.3f}"
    if len(trained) < 2:
        return text
    pooled = math.sqrt((trained.var(ddof=1) + random.var(ddof=1)) / 2)
    return f"{text} ({(trained.mean() - random.mean()) / pooled:+.1f})"


def table(bench: Bench, methods: list[str]) -> str:
    """Markdown: one line per method."""
    head = [f"{task}, {'k-NN' if protocol == 'knn' else protocol}" for task, protocol in TASKS]
    lines = ["| method | backbone | " + " | ".join(head) + " |", "|---" * (len(TASKS) + 2) + "|"]
    for method in methods:
        config = yaml.safe_load((bench.run_folder(method, 0) / "config.yaml").read_text())
        lines.append(f"| {method} | {config['backbone']['name']} | " + " | ".join(bench.rows(method)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", action="append", choices=METHODS, help="default: all")
    parser.add_argument("--frames", type=Path, help="a labelled folder in CholecT50's layout, in place of a phantom")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=96, help="of the phantom")
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time (default: 2)")
    add_corpus(parser)
    args = parser.parse_args()
    methods = args.method or METHODS
    if "distillation" in methods and "simclr" not in methods:
        parser.error("distillation learns from the runs of simclr: add --method simclr")
    bench = Bench(args.out, args.frames, args.cases, args.seeds, args.lanes, args.corpus)
    bench.prepare()
    bench.pretrain(methods)
    for method in methods:
        bench.evaluate(method)
    print(described(bench.data) if bench.frames is None else f"frames of {bench.frames}")
    print(table(bench, methods))


if __name__ == "__main__":
    main()
