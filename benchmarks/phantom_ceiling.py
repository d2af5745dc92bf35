"""What a phantom offers a network: floors, the clock, a ceiling, and what the wrong hospital or procedure costs.

    python benchmarks/phantom_ceiling.py OUT [--phantom DIR] [--cases 84] [--only TEXT ...]

Makes the acceptance corpus (a seed of its own, see docs/phantom.md) in OUT/phantom, or takes DIR, trains every row on
half of the cases of each hospital and procedure and tests it on the other half, at 1 fps. What is finished is kept in
OUT/scores: the command continues. Each number pools all test frames; its interval is over draws of test cases.

Chance is a guess at the labels' prevalence. The floor is the best of mean colour, raw pixels and random networks. The
ceiling is a network trained from scratch on the labels of both hospitals and all procedures. For the cost of a wrong
source it is trained on one hospital or one procedure alone, in equally many steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml
from phantom_learners import CUES, Corpus, cue_scores, load, network_scores
from phantom_split import described

from trocar.phantom import HOSPITALS, PHASES, PROCEDURES
from trocar.phantom.spec import CORPORA

AIMS = Path(__file__).with_name("phantom_acceptance.yaml")
SOURCES = {"hospital": HOSPITALS, "procedure": PROCEDURES}
NETWORK = "network trained on labels"
DRAWS = 1000

Guess = tuple[np.ndarray, np.ndarray]
"""Phase probabilities [n, 6] and tool scores [n, 7] of the test frames, in the order of the corpus."""


class Truth:
    """The tested frames, and the two scores under any weights of them."""

    def __init__(self, corpus: Corpus, rows: np.ndarray) -> None:
        self.phase, self.tools = corpus.phase[rows], corpus.tools[rows] > 0.5
        self.case = np.unique(corpus.case[rows], return_inverse=True)[1]
        about = corpus.about.loc[np.unique(corpus.case[rows])]
        self.source = {key: about[key].to_numpy() for key in SOURCES}

    def macro_f1(self, guess: Guess) -> Callable[[np.ndarray], float]:
        """A function of the weight of every frame [n]."""
        choice = guess[0].argmax(1)

        def score(weight: np.ndarray) -> float:
            real = np.bincount(self.phase, weight, len(PHASES))
            said = np.bincount(choice, weight, len(PHASES))
            hits = np.bincount(self.phase[choice == self.phase], weight[choice == self.phase], len(PHASES))
            return float((2 * hits[real > 0] / (real + said)[real > 0]).mean())

        return score

    def chance_f1(self, weight: np.ndarray) -> float:
        """Expected macro F1 of guesses drawn at the prevalence: each class's F1 is its prevalence."""
        real = np.bincount(self.phase, weight, len(PHASES))
        return float((real / real.sum())[real > 0].mean())

    def mean_ap(self, guess: Guess) -> Callable[[np.ndarray], float]:
        """A function of the weight of every frame [n]; tools that do not occur under it are left out."""
        orders = [np.argsort(-scores, kind="stable") for scores in guess[1].T]
        ends = [
            np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
            for scores, order in zip(guess[1].T, orders, strict=True)
        ]

        def score(weight: np.ndarray) -> float:
            found = []
            for k, (order, end) in enumerate(zip(orders, ends, strict=True)):
                w = weight[order]
                hits, seen = np.cumsum(w * self.tools[order, k])[end], np.cumsum(w)[end]
                if hits[-1] > 0:
                    gained = np.diff(hits, prepend=0)
                    found.append((gained[seen > 0] * hits[seen > 0] / seen[seen > 0]).sum() / hits[-1])
            return float(np.mean(found))

        return score

    def chance_ap(self, weight: np.ndarray) -> float:
        """Mean prevalence of the tools that occur."""
        share = (weight[:, None] * self.tools).sum(0) / weight.sum()
        return float(share[share > 0].mean())

    def cost(self, key: str, guesses: dict[str, Guess], metric: str) -> Callable[[np.ndarray], float]:
        """Right minus wrong source, mean over sources; `guesses` are of networks that saw one source each."""
        scores = {trained: getattr(self, metric)(guess) for trained, guess in guesses.items()}
        at = {tested: (self.source[key] == tested)[self.case] for tested in guesses}

        def score(weight: np.ndarray) -> float:
            pairs = {(a, b): scores[a](weight * at[b]) for a in guesses for b in guesses}
            right = np.mean([value for (a, b), value in pairs.items() if a == b])
            return float(right - np.mean([value for (a, b), value in pairs.items() if a != b]))

        return score

    def interval(self, score: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
        """Value and its 95 % over draws of cases, drawn within hospital and procedure."""
        cells = np.unique([f"{h} {p}" for h, p in zip(*self.source.values(), strict=True)], return_inverse=True)[1]
        members = [np.flatnonzero(cells == cell) for cell in range(cells.max() + 1)]
        rng = np.random.default_rng(0)
        draws = []
        for _ in range(DRAWS):
            drawn = np.concatenate([rng.choice(m, len(m)) for m in members])
            draws.append(score(np.bincount(drawn, minlength=len(cells)).astype(float)[self.case]))
        low, high = np.quantile(draws, [0.025, 0.975])
        return score(np.ones(len(self.case))), float(low), float(high)


def rows_of(corpus: Corpus, steps: int, arch: str) -> Iterator[tuple[str, Callable[[np.ndarray, np.ndarray], Guess]]]:
    """(name, function of training and test frames) of everything that is measured. Training frames that are no whole
    second have no tools: networks use them, cues do not.
    """
    for name, cue in CUES.items():
        yield name, lambda train, test, cue=cue: cue_scores(corpus, cue, train[corpus.whole_second[train]], test)
    yield NETWORK, lambda train, test: network_scores(corpus, train, test, steps, arch)
    for key, groups in SOURCES.items():
        source = corpus.about[key].loc[corpus.case].to_numpy()
        for group in groups:
            own = source == group
            yield (
                f"network, {key} {group}",
                lambda train, test, own=own: network_scores(corpus, train[own[train]], test, steps // 2, arch),
            )


def measure(corpus: Corpus, out: Path, steps: int, arch: str, only: list[str]) -> dict[str, Guess]:
    """Guesses of every row, from `out` where they are there."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Guess] = {}
    train, test = split(corpus)
    for name, run in rows_of(corpus, steps, arch):
        if only and not any(word in name for word in only):
            continue
        kept = out / f"{name.replace(' ', '-').replace(chr(39), '').replace(',', '')}.npz"
        if not kept.is_file():
            started = time.perf_counter()
            phase, tools = run(train, test)
            with kept.with_suffix(".partial").open("wb") as file:
                np.savez(file, phase=phase, tools=tools)
            kept.with_suffix(".partial").rename(kept)
            truth, all_alike = Truth(corpus, test), np.ones(len(test))
            f1, ap = truth.macro_f1((phase, tools))(all_alike), truth.mean_ap((phase, tools))(all_alike)
            print(f"{name}: {f1:.3f}, {ap:.3f} ({time.perf_counter() - started:.0f} s)", flush=True)
        with np.load(kept) as arrays:
            found[name] = arrays["phase"], arrays["tools"]
    return found


def split(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """(training frames, test frames at 1 fps): of each hospital and procedure every other case is trained on."""
    rank = corpus.about.groupby(["hospital", "procedure"]).cumcount()
    tested = (rank % 2 == 1).loc[corpus.case].to_numpy()
    return np.flatnonzero(~tested), np.flatnonzero(tested & corpus.whole_second)


def report(phantom: Path, corpus: Corpus, guesses: dict[str, Guess]) -> None:
    """Print the tables, and the aims beside what was found."""
    truth = Truth(corpus, split(corpus)[1])
    print(f"\n{described(phantom)}")
    print(f"{len(truth.source['hospital'])} test cases, {len(truth.phase)} frames at 1 fps")
    print("\n| what is used | phase, macro F1 | 95 % | tools, mAP | 95 % |\n|---|---|---|---|---|")
    best: dict[tuple[str, str], float] = {}
    costs: dict[str, float] = {}
    for name, guess in guesses.items():
        kind = CUES[name].kind if name in CUES else "ceiling" if name == NETWORK else "source"
        cells = []
        for task, score in (("phase", truth.macro_f1(guess)), ("tools", truth.mean_ap(guess))):
            if kind == "chance":
                score = truth.chance_f1 if task == "phase" else truth.chance_ap
            value, low, high = truth.interval(score)
            best[kind, task] = max(value, best.get((kind, task), 0))
            cells.append("- | -" if (kind, task) == ("oracle", "tools") else f"{value:.3f} | {low:.3f} to {high:.3f}")
        if kind != "source":
            print(f"| {name} | {cells[0]} | {cells[1]} |")
    print("\n| cost of the wrong | phase, macro F1 | 95 % | tools, mAP | 95 % |\n|---|---|---|---|---|")
    for key, groups in SOURCES.items():
        trained = {g: guesses[f"network, {key} {g}"] for g in groups if f"network, {key} {g}" in guesses}
        if len(trained) == len(groups):
            both = [truth.interval(truth.cost(key, trained, metric)) for metric in ("macro_f1", "mean_ap")]
            print(f"| {key} |", " | ".join(f"{v:+.3f} | {low:+.3f} to {high:+.3f}" for v, low, high in both), "|")
            costs[key] = both[0][1]
    if all((kind, "phase") in best for kind in ("chance", "floor", "clock", "ceiling")) and len(costs) == len(SOURCES):
        verdict(best, costs)


def verdict(best: dict[tuple[str, str], float], costs: dict[str, float]) -> None:
    """Print how far above chance floor, clock and ceiling are, and whether that is what was aimed at. `costs` are the
    lower ends of the intervals of what a wrong source costs.
    """
    wanted = yaml.safe_load(AIMS.read_text(encoding="utf-8"))
    for key in wanted["costs"]:
        print(f"\nthe wrong {key} costs something: {'met' if costs[key] > 0 else 'NOT met'}")
    for task, aim in wanted["aims"].items():
        above = {kind: best[kind, task] - best["chance", task] for kind in ("floor", "clock", "ceiling")}
        times, share = above["ceiling"] / above["floor"], above["clock"] / above["ceiling"]
        print(
            f"\n{task}: above chance ({best['chance', task]:.3f}): floor {above['floor']:.3f}, "
            f"clock {above['clock']:.3f}, ceiling {above['ceiling']:.3f}"
            f"\n  ceiling / floor {times:.2f} (aim: at least {aim['ceiling_over_floor']}): "
            f"{'met' if times >= aim['ceiling_over_floor'] else 'NOT met'}"
            f"\n  clock / ceiling {share:.2f} (aim: at most {aim['clock_over_ceiling']}): "
            f"{'met' if share <= aim['clock_over_ceiling'] else 'NOT met'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--phantom", type=Path, help="a phantom that is there already")
    parser.add_argument("--cases", type=int, default=84)
    parser.add_argument("--steps", type=int, default=1200, help="of 64 frames; half as many for one source")
    parser.add_argument("--arch", default="resnet10t")
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name has one of these words")
    args = parser.parse_args()
    phantom = args.phantom or args.out / "phantom"
    if args.phantom is None:
        how = ["--cases", str(args.cases), "--seed", str(CORPORA["acceptance"]), "--size", "128x96", "--fps", "2"]
        subprocess.run([sys.executable, "-m", "trocar", "phantom", str(phantom), *how], check=True)
    corpus = load(phantom, (128, 96), fps=2)
    found = measure(corpus, args.out / "scores", args.steps, args.arch, args.only)
    report(phantom, corpus, found)


if __name__ == "__main__":
    main()
