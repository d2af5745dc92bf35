"""How often a study's intervals of ranks over tasks and of power laws hold the truth.

    python benchmarks/coverage_curves.py --ranks [--simulations 400] [--draws 400]
    python benchmarks/coverage_curves.py --law [--simulations 80] [--draws 200]

Prints a markdown table of the coverage of nominal 95 % intervals. Scores are a mean over cases of `arm + case + seed +
arm x case + seed x case`, all normal; cases are the same for all arms, seeds and the interaction have half of the
variance each of what is an arm's own, and half of a seed's luck is the same on all tasks.
    --ranks   four arms, each so many standard errors of a difference better than the next, on every task. Cells: the
              coverage of the rank of the best arm / of the second; `width` is the median width of the best arm's
    --law     five nested sizes, 10 to 160 cases, on limit - gain * (n / 10) ^ -exponent. The gain is so many standard
              errors of a difference. Cells: the band at the smallest size / the largest / twice that; the exponent's
              interval; and the share of studies that get a curve, over which the others are counted
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from coverage import linear
from scipy.stats import rankdata

from trocar.study.statistics.crossed import Crossed, rank_over_tasks
from trocar.study.statistics.resample import draw_cases
from trocar.study.statistics.scaling import FARTHEST, GRID, fit_power_law

CASES, SEEDS, TASKS = (7, 40), (2, 5), (1, 2, 5)
GAPS = (0.0, 0.5, 1.0, 2.0, 4.0)
ARMS = ("a", "b", "c", "d")
SIZES = np.array([10.0, 20.0, 40.0, 80.0, 160.0])
LAWS = ((10.0, 0.3), (40.0, 1.0))
"""(gain, exponent)"""


class Simulated:
    """Scores of arms with true values `truth` [arms], of which a difference has a standard error of 1."""

    def __init__(self, truth: np.ndarray, cases: int, seeds: int, generator: np.random.Generator) -> None:
        self.truth, self.cases, self.seeds, self.generator = truth, cases, seeds, generator
        # Two arms: half of the variance of 1 is each one's, and half of that its seeds'.
        self.luck, self.own = np.sqrt(0.25 * seeds), np.sqrt(0.25 * cases)
        self.common = self._normal(len(truth), seeds, 1)

    def task(self, weights: np.ndarray) -> Crossed:
        """One task with cases of its own, resampled."""
        arms = len(self.truth)
        luck = self.luck * np.sqrt(0.5) * (self.common + self._normal(arms, self.seeds, 1))
        case = np.sqrt(self.cases) * self._normal(1, 1, self.cases)
        own = self.own * self._normal(arms, 1, self.cases)
        noise = self.own / 2 * self._normal(arms, self.seeds, self.cases)
        tables = self.truth[:, None, None] + luck + case + own + noise
        return Crossed({str(i): linear(str(i), table, weights) for i, table in enumerate(tables)})

    def _normal(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape)


def rank_coverage(cases: int, seeds: int, tasks: int, gap: float, simulations: int, draws: int) -> np.ndarray:
    """float64 [arms, 2]: how often the true mean rank is in its interval, and the median width."""
    generator = np.random.default_rng([cases, seeds, tasks, int(100 * gap)])
    weights, truth = draw_cases(cases, draws), -gap * np.arange(len(ARMS))
    true_rank, held, width = rankdata(-truth), [], []
    for _ in range(simulations):
        scores = Simulated(truth, cases, seeds, generator)
        found = {rank.arm: rank for rank in rank_over_tasks({str(t): scores.task(weights) for t in range(tasks)}).ranks}
        ends = np.array([(found[str(i)].low, found[str(i)].high) for i in range(len(ARMS))])
        held.append((ends[:, 0] <= true_rank) & (true_rank <= ends[:, 1]))
        width.append(ends[:, 1] - ends[:, 0])
    return np.stack([np.mean(held, axis=0), np.median(width, axis=0)], axis=1)


def law_coverage(
    cases: int, seeds: int, law: tuple[float, float], simulations: int, draws: int
) -> tuple[np.ndarray, float]:
    """Coverage at the smallest, the largest and twice the largest size and of the exponent; share that got a curve."""
    gain, exponent = law
    generator = np.random.default_rng([cases, seeds, int(gain), int(100 * exponent)])
    weights, held = draw_cases(cases, draws), []
    places = [0, int(np.argmin(np.abs(_at() - SIZES[-1]))), -1]
    truth = -gain * (_at()[places] / SIZES[0]) ** -exponent
    for _ in range(simulations):
        scores = Simulated(-gain * (SIZES / SIZES[0]) ** -exponent, cases, seeds, generator)
        fit = fit_power_law(scores.task(weights), [str(i) for i in range(len(SIZES))], SIZES)
        if fit is not None:
            low, high = np.array(fit.low)[places], np.array(fit.high)[places]
            held.append([*((low <= truth) & (truth <= high)), fit.exponent[1] <= exponent <= fit.exponent[2]])
    return np.mean(held, axis=0) if held else np.full(4, np.nan), len(held) / simulations


def _at() -> np.ndarray:
    """The sizes at which a band is computed."""
    return np.geomspace(SIZES[0], FARTHEST * SIZES[-1], GRID)


def print_ranks(simulations: int, draws: int) -> None:
    print("| tasks | cases | seeds | " + " | ".join(f"gap {g:g} | width" for g in GAPS) + " |")
    print("|" + "---|" * (3 + 2 * len(GAPS)))
    for tasks, cases, seeds in [(t, c, s) for t in TASKS for c in CASES for s in SEEDS]:
        found = [rank_coverage(cases, seeds, tasks, gap, simulations, draws) for gap in GAPS]
        cells = [f"{one[0, 0]:.2f} / {one[1, 0]:.2f} | {one[0, 1]:.1f}" for one in found]
        print(f"| {tasks} | {cases} | {seeds} | {' | '.join(cells)} |", flush=True)


def print_law(simulations: int, draws: int) -> None:
    titles = [f"gain {gain:g}, exponent {exponent:g} | its exponent | curves" for gain, exponent in LAWS]
    print(f"| cases | seeds | {' | '.join(titles)} |\n|" + "---|" * (2 + 3 * len(LAWS)))
    for cases, seeds in [(c, s) for c in CASES for s in SEEDS]:
        cells = []
        for law in LAWS:
            held, share = law_coverage(cases, seeds, law, simulations, draws)
            cells.append(f"{_listed(held[:3])} | {held[3]:.2f} | {share:.2f}")
        print(f"| {cases} | {seeds} | {' | '.join(cells)} |", flush=True)


def _listed(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ranks", action="store_true")
    what.add_argument("--law", action="store_true")
    parser.add_argument("--simulations", type=int)
    parser.add_argument("--draws", type=int)
    options = parser.parse_args()
    if options.ranks:
        print_ranks(options.simulations or 400, options.draws or 400)
    else:
        print_law(options.simulations or 80, options.draws or 200)


if __name__ == "__main__":
    main()
