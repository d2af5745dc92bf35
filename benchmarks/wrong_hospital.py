"""What pretraining on the wrong hospital costs on the phantom, and what any pretraining is worth there.

    python benchmarks/wrong_hospital.py OUT [--steps 360] [--seeds 3] [--cases 120] [--threads 2]

Makes a phantom, sets six cases of each hospital and procedure aside for training, pretrains the demo's recipe on the 18
training cases of one hospital or of the other, and evaluates all on the test cases of both. Prints what pretraining was
worth against random weights, and the cost of the wrong hospital: the mean score on the hospital that was pretrained on
minus the mean score on the other one, which cancels what makes one hospital easier or one run better. The interval
resamples test cases within hospitals and runs. About two hours on two cores; run again, it continues.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HOSPITALS = ("north", "south")
TRAIN_CASES = 6  # of each hospital and procedure
DRAWS = 1000


def trocar(*words: str) -> None:
    """Run a command; its failure ends the benchmark."""
    print("trocar", *words, flush=True)
    subprocess.run([sys.executable, "-m", "trocar", *words], check=True)


def split(phantom: Path) -> None:
    """Write the benchmark's own split into videos.csv: six cases per hospital and procedure train, the others test."""
    videos = pd.read_csv(phantom / "videos.csv")
    cases = videos.drop_duplicates("case_id").sort_values("case_id")
    rank = cases.groupby(["hospital", "procedure"]).cumcount()
    train = set(cases.case_id[rank < TRAIN_CASES])
    videos["split"] = ["train" if case in train else "test" for case in videos.case_id]
    videos.to_csv(phantom / "videos.csv", index=False)


def run(out: Path, steps: int, seeds: int, cases: int, threads: int) -> None:
    """Everything up to `OUT/evaluation`."""
    phantom, shards = out / "phantom", out / "shards"
    trocar("phantom", str(phantom), "--cases", str(cases))
    split(phantom)
    described = ["--metadata", str(phantom / "videos.csv"), "--short-side", "160"]
    trocar("ingest", str(phantom / "videos"), *described, "--out", str(shards))
    runs = {f"{hospital}{seed}": (hospital, seed) for seed in range(seeds) for hospital in HOSPITALS}
    for name, (hospital, seed) in runs.items():
        include = f"data.composition.include=[{{hospital: [{hospital}], split: [train]}}]"
        where = [f"data.catalog={shards}", f"run.out={out / 'runs' / name}", f"run.threads={threads}", "run.workers=1"]
        trocar("pretrain", "demo", include, *where, f"run.seed={seed}", f"train.steps={steps}", "tracking.uri=none")
    named = [word for name in runs for word in ("--backbone", f"{name}={out / 'runs' / name}")]
    what = ["--task", "phase", "--task", "tools", "--protocol", "knn", "--protocol", "linear", "--size", "96"]
    trocar("evaluate", *named, "--data", str(phantom), *what, "--out", str(out / "evaluation"))


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
    """Right minus wrong hospital, mean over runs."""
    found = {
        (tested, trained): np.mean([scores(f"{trained}{seed}", cases[tested]) for seed in seeds])
        for tested in HOSPITALS
        for trained in HOSPITALS
    }
    right, wrong = (
        (found["north", "north"], found["south", "south"]),
        (found["north", "south"], found["south", "north"]),
    )
    return float((sum(right) - sum(wrong)) / 2)


def report(out: Path, seeds: int) -> None:
    """Print both tables."""
    predictions = pd.read_parquet(out / "evaluation" / "predictions.parquet")
    hospital = pd.read_csv(out / "phantom" / "videos.csv").drop_duplicates("case_id").set_index("case_id").hospital
    # Random weights are one backbone of several seeds.
    drawn = predictions["backbone"].str.startswith("random")
    predictions["name"] = predictions["backbone"] + predictions["seed"].astype(str).where(drawn, "")
    tested = sorted(predictions["case"].unique())
    cases = {h: [c for c in tested if hospital[c] == h] for h in HOSPITALS}
    print(f"\n{len(tested)} test cases, {seeds} runs per hospital")
    print("\n| task | protocol | pretrained, one hospital | random weights | cost of the wrong one | 95 % |")
    print("|---|---|---|---|---|---|")
    for (task, protocol), part in predictions.groupby(["task", "protocol"]):
        names = set(part["name"])
        own = [f"{h}{seed}" for h in HOSPITALS for seed in range(seeds)]
        if not names.issuperset(own):
            continue
        scores = Scores(part, str(task))
        trained = [scores(name, tested) for name in own]
        random = [scores(name, tested) for name in sorted(n for n in names if n.startswith("random"))]
        rng = np.random.default_rng(0)
        draws = [
            cost(scores, {h: list(rng.choice(c, len(c))) for h, c in cases.items()}, rng.choice(seeds, seeds))
            for _ in range(DRAWS)
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        cells = [f"{np.mean(x):.3f} ± {np.std(x, ddof=1):.3f}" if len(x) > 1 else "-" for x in (trained, random)]
        found = cost(scores, cases, range(seeds))
        print(f"| {task} | {protocol} | {cells[0]} | {cells[1]} | {found:+.3f} | {low:+.3f} to {high:+.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report-only", action="store_true", help="read OUT/evaluation and print")
    args = parser.parse_args()
    if not args.report_only:
        run(args.out, args.steps, args.seeds, args.cases, args.threads)
    report(args.out, args.seeds)


if __name__ == "__main__":
    main()
