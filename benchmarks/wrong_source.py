"""What pretraining on the wrong hospital or procedure costs on the phantom, and what any pretraining is worth there.

    python benchmarks/wrong_source.py OUT [--by hospital] [--by procedure] [--by all] [--seeds 3] [key=value ...]

Makes a phantom, sets six cases of each hospital and procedure aside for training, pretrains wrong_source.yaml on the
training cases of one hospital (or one procedure) after the other, or on `all`, and evaluates every run on all test
cases. Overrides of the recipe may stand behind the options. Prints what pretraining was worth against random weights,
and the cost of the wrong source: the mean score on the source that was pretrained on minus the mean score on the
others, which cancels what makes one source easier or one run better. The interval resamples test cases within sources
and runs. Run again, it continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from phantom_split import add_corpus, described, in_lanes, make_phantom, trocar

GROUPS = {
    "hospital": ("north", "south"),
    "procedure": ("cholecystectomy", "sleeve_gastrectomy", "hysterectomy"),
    "all": ("all",),
}
DRAWS = 1000
RECIPE = Path(__file__).with_suffix(".yaml")


def run(
    out: Path, by: list[str], steps: int, seeds: int, cases: int, lanes: int, corpus: str, overrides: list[str]
) -> None:
    """Everything up to `OUT/evaluation`; `lanes` pretraining runs at a time, with one thread each."""
    phantom, shards = out / "phantom", out / "shards"
    make_phantom(phantom, shards, cases, corpus)
    runs = {f"{group}{seed}": (key, group, seed) for seed in range(seeds) for key in by for group in GROUPS[key]}

    def pretrain(name: str) -> None:
        key, group, seed = runs[name]
        source = "" if key == "all" else f"{key}: [{group}], "
        include = f"data.composition.include=[{{{source}split: [train]}}]"
        where = [f"data.catalog={shards}", f"run.out={out / 'runs' / name}", "run.threads=1", "run.workers=1"]
        trocar(
            "pretrain",
            str(RECIPE),
            include,
            *where,
            f"run.seed={seed}",
            f"train.steps={steps}",
            "tracking.uri=none",
            *overrides,
        )

    in_lanes(lanes, pretrain, runs)
    named = [word for name in runs for word in ("--backbone", f"{name}={out / 'runs' / name}")]
    what = ["--task", "phase", "--task", "tools", "--protocol", "knn", "--protocol", "linear", "--size", "96"]
    draws = ["--seeds", str(2 * seeds)]  # of random weights: their spread is half of every comparison
    trocar("evaluate", *named, "--data", str(phantom), *what, *draws, "--out", str(out / "evaluation"))


class Scores:
    """Predictions of one task and protocol, by backbone and case, scored on any multiset of cases."""

    def __init__(self, predictions: pd.DataFrame, task: str) -> None:
        self.task = task
        self.groups = {key: self._arrays(group) for key, group in predictions.groupby(["name", "case"])}

    def _arrays(self, group: pd.DataFrame) -> tuple[Any, Any]:
        if self.task == "phase":
            return group["gt"].to_numpy(int), group["pred"].to_numpy(int)
        return np.stack(group["gt_labels"].to_numpy()), np.stack(group["scores"].to_numpy())

    def __call__(self, backbone: str, cases: list[Any]) -> float:
        """Macro F1 of phases, or mean average precision of the instruments that occur, frames of all cases pooled."""
        truth, guess = (np.concatenate(part) for part in zip(*(self.groups[backbone, c] for c in cases), strict=True))
        if self.task == "phase":
            return macro_f1(truth, guess)
        seen = np.flatnonzero(truth.any(0))
        return float(np.mean([average_precision(truth[:, k], guess[:, k]) for k in seen]))


def macro_f1(truth: Any, guess: Any) -> float:
    """scikit-learn's f1_score(average="macro"), many times as fast."""
    hit = np.bincount(truth[truth == guess], minlength=6)
    either = np.bincount(truth, minlength=6) + np.bincount(guess, minlength=6)
    return float((2 * hit[either > 0] / either[either > 0]).mean())


def average_precision(truth: Any, score: Any) -> float:
    """scikit-learn's average_precision_score, many times as fast: equal scores are one threshold."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(truth[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])


def cost(scores: Scores, cases: dict[str, list[Any]], seeds: Any) -> float:
    """Right minus wrong source, mean over sources and runs."""
    found = {
        (tested, trained): float(np.mean([scores(f"{trained}{seed}", cases[tested]) for seed in seeds]))
        for tested in cases
        for trained in cases
    }
    right = np.mean([score for (tested, trained), score in found.items() if tested == trained])
    wrong = np.mean([score for (tested, trained), score in found.items() if tested != trained])
    return float(right - wrong)


def interval(scores: Scores, cases: dict[str, list[Any]], seeds: int) -> tuple[float, float]:
    """95 % of the cost, over draws of cases within sources and of runs."""
    rng = np.random.default_rng(0)
    draws = [
        cost(scores, {group: list(rng.choice(c, len(c))) for group, c in cases.items()}, rng.choice(seeds, seeds))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def report(out: Path, by: list[str], seeds: int) -> None:
    """Print a table per kind of source."""
    predictions = pd.read_parquet(out / "evaluation" / "predictions.parquet")
    videos = pd.read_csv(out / "phantom" / "videos.csv").drop_duplicates("case_id").set_index("case_id")
    # Random weights are one backbone of several seeds.
    drawn = predictions["backbone"].str.startswith("random")
    predictions["name"] = predictions["backbone"] + predictions["replicate"].astype(str).where(drawn, "")
    tested = sorted(predictions["case"].unique())
    print(described(out / "phantom"))
    for key in by:
        cases = {g: [c for c in tested if key == "all" or videos.loc[c, key] == g] for g in GROUPS[key]}
        print(f"\n{len(tested)} test cases, {seeds} runs per {key}")
        print(f"\n| task | protocol | pretrained, one {key} | random weights | cost of the wrong one | 95 % |")
        print("|---|---|---|---|---|---|")
        for (task, protocol), part in predictions.groupby(["task", "protocol"]):
            own = [f"{group}{seed}" for group in cases for seed in range(seeds)]
            if not set(part["name"]).issuperset(own):
                continue  # raw pixels
            scores = Scores(part, str(task))
            trained = [scores(name, tested) for name in own]
            random = [scores(name, tested) for name in sorted(set(part["name"])) if name.startswith("random")]
            cells = [f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}" if len(x) > 1 else "-" for x in (trained, random)]
            wrong = "- | - |"
            if len(cases) > 1:
                low, high = interval(scores, cases, seeds)
                wrong = f"{cost(scores, cases, range(seeds)):+.3f} | {low:+.3f} to {high:+.3f} |"
            print(f"| {task} | {protocol} | {cells[0]} | {cells[1]} | {wrong}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--by", action="append", choices=sorted(GROUPS), help="default: hospital and procedure")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=96)
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    parser.add_argument("--report-only", action="store_true", help="read OUT/evaluation and print")
    add_corpus(parser)
    args = parser.parse_args()
    by = args.by or ["hospital", "procedure"]
    if not args.report_only:
        run(args.out, by, args.steps, args.seeds, args.cases, args.lanes, args.corpus, args.overrides)
    report(args.out, by, args.seeds)


if __name__ == "__main__":
    main()
