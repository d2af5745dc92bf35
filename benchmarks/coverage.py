"""How often intervals of a study hold the true number, and how often two equal arms are called different.

    python benchmarks/coverage.py [--simulations 1000] [--draws 400] [--all]    coverage of nominal 95 % intervals
    python benchmarks/coverage.py --pooled [--simulations 200]                  of a pooled mAP, from predictions
    python benchmarks/coverage.py --guards                                      least coverage by guard, normal scores
    python benchmarks/coverage.py --null [--simulations 1000]                   tests of two arms of one recipe

Prints a markdown table. Scores are a mean over cases of `case + seed + seed x case`, normal or skewed (exponential),
where seeds have a share of 0, .1, .5, .8, .95 or 1 of the variance of an arm's mean. A line of the table is the
scenario in which that interval does worst (`--all`: every scenario); `width` is the median half width over that of
the interval with all variances known.
    nested      seeds, and cases inside each seed, resampled: percentiles
    crossed     seeds, and one set of cases, resampled: percentiles
    inflated    crossed, both factors times sqrt(n / (n - 1))
    t           crossed variance, Student's t with Satterthwaite's degrees of freedom
    guarded     the same with those of `trocar.study.statistics.crossed`, which studies use
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from trocar.downstream.metrics.multilabel import map_pooled
from trocar.downstream.metrics.outcome import Outcome
from trocar.study.statistics.contrasts import swap_test
from trocar.study.statistics.crossed import estimate, guarded
from trocar.study.statistics.resample import Arm, Resampled, draw_cases, resample

CASES, SEEDS = (7, 14, 32, 40), (2, 3, 5)
SHARES = (0.0, 0.1, 0.5, 0.8, 0.95, 1.0)
METHODS = ("nested", "crossed", "inflated", "t", "guarded")
Table = dict[str, tuple[float, float]]
"""By method: coverage and width, or the ends of an interval."""
FRAMES, TOOLS = 10, 2


@dataclass(frozen=True)
class Scenario:
    """`arms` is 1 for an arm, 2 for a difference. `spread`: how many times the seeds of the second arm scatter."""

    arms: int
    share: float
    skewed: bool
    spread: float = 1.0

    def __str__(self) -> str:
        kind = "skewed" if self.skewed else "normal"
        return f"{kind}, seeds {self.share:g}" + (f", spread {self.spread:g}" if self.spread != 1 else "")

    def deviations(self, cases: int, seeds: int) -> tuple[float, float, float]:
        """Standard deviations of seeds, cases and their interaction, for a variance of the mean of about 1."""
        case = np.sqrt((1 - self.share) * cases)
        return np.sqrt(self.share * seeds), case, case / 2

    def error(self, cases: int, seeds: int) -> float:
        """The true standard error."""
        seed, case, both = self.deviations(cases, seeds)
        spreads = (1.0, self.spread)[: self.arms]
        return float(np.sqrt(sum((seed * s) ** 2 / seeds + case**2 / cases + both**2 / seeds / cases for s in spreads)))


def scenarios() -> list[Scenario]:
    plain = [Scenario(arms, share, skewed) for arms in (1, 2) for share in SHARES for skewed in (False, True)]
    return [*plain, *(Scenario(2, share, False, 3.0) for share in (0.5, 0.9))]


def scores(scenario: Scenario, cases: int, seeds: int, generator: np.random.Generator) -> list[np.ndarray]:
    """float64 [seeds, cases] of each arm; the truth is 0. What two arms share of a case cancels in their difference, so
    that `case` is drawn for each.
    """
    seed, case, both = scenario.deviations(cases, seeds)
    found = []
    for spread in (1.0, scenario.spread)[: scenario.arms]:
        own = 1 - generator.exponential(size=cases) if scenario.skewed else generator.standard_normal(cases)
        luck = spread * seed * generator.standard_normal((seeds, 1))
        found.append(luck + case * own + both * generator.standard_normal((seeds, cases)))
    return found


def linear(name: str, table: np.ndarray, weights: np.ndarray) -> Resampled:
    """The mean over cases, resampled."""
    return Resampled(name, table.mean(1), table @ weights.T / table.shape[1], table.shape[1])


def intervals(arms: list[Resampled], generator: np.random.Generator) -> Table:
    """Interval of the arm, or of the first less the second, by every method."""
    draws, cases = arms[0].drawn.shape[1], arms[0].cases
    nested, crossed, inflated = np.zeros(draws), np.zeros(draws), np.zeros(draws)
    for sign, arm in zip((1, -1), arms, strict=False):
        picked = generator.integers(arm.seeds, size=(arm.seeds, draws))
        shuffled = np.stack([generator.permutation(draws) for _ in range(arm.seeds)])
        nested += sign * arm.drawn[picked, shuffled].mean(0)
        crossed += sign * arm.drawn[picked, np.arange(draws)].mean(0)
        luck = np.sqrt(arm.seeds / (arm.seeds - 1)) * (arm.values[picked].mean(0) - arm.value)
        inflated += sign * (arm.value + luck + np.sqrt(cases / (cases - 1)) * arm.case_part)
    found = {"nested": nested, "crossed": crossed, "inflated": inflated}
    ends = {name: tuple(np.percentile(table, [2.5, 97.5])) for name, table in found.items()}
    used = estimate("", [(float(sign), arm) for sign, arm in zip((1, -1), arms, strict=False)])
    seed_parts = [(arm.seed_variance, arm.seeds - 1.0) for arm in arms]
    case_part = used.error**2 - sum(variance for variance, _ in seed_parts)
    error, degrees = guarded(seed_parts, (case_part, cases - 1.0), guard=0)
    half = float(stats.t.ppf(0.975, degrees)) * error
    return {**ends, "t": (used.value - half, used.value + half), "guarded": (used.low, used.high)}


def coverage(scenario: Scenario, cases: int, seeds: int, simulations: int, draws: int) -> Table:
    """(coverage, median half width over the one with known variances) of every method."""
    generator = np.random.default_rng([cases, seeds])
    weights = draw_cases(cases, draws)
    found = []
    for _ in range(simulations):
        tables = scores(scenario, cases, seeds, generator)
        found.append(intervals([linear("", table, weights) for table in tables], generator))
    return summary(found, 0.0, 1.96 * scenario.error(cases, seeds))


def summary(found: list[Table], truth: float, known: float) -> Table:
    ends = {method: np.array([one[method] for one in found]) for method in METHODS}
    return {
        method: (
            float(((table[:, 0] <= truth) & (truth <= table[:, 1])).mean()),
            float(np.median(table[:, 1] - table[:, 0]) / 2 / known),
        )
        for method, table in ends.items()
    }


def predictions(cases: int, seeds: int, generator: np.random.Generator) -> Iterator[Outcome]:
    """Tools of `cases` with their own prevalence and difficulty, seen by seeds that are more or less good."""
    case = np.repeat(np.arange(cases), FRAMES)
    prevalence, ease = generator.beta(2, 3, (cases, TOOLS)), generator.normal(1.5, 0.7, (cases, 1))
    gt = (generator.random((len(case), TOOLS)) < prevalence[case]).astype(np.int64)
    for _ in range(seeds):
        skill = ease + generator.normal(0, 0.2) + generator.normal(0, 0.2, (cases, 1))
        yield Outcome(gt, gt, gt * skill[case] + generator.standard_normal(gt.shape), case)


def pooled_coverage(arms: int, cases: int, seeds: int, simulations: int, draws: int) -> Table:
    """Coverage of the mAP over all frames; of the difference of two equal arms for `arms` 2. Widths are over that of
    the scatter of the simulations.
    """
    generator = np.random.default_rng([cases, seeds, arms])
    truth = float(np.mean([map_pooled(next(predictions(4000, 1, generator))) for _ in range(30)])) if arms == 1 else 0.0
    weights, found, values = draw_cases(cases, draws), [], []
    for _ in range(simulations):
        runs = list(predictions(cases, seeds * arms, generator))
        tables = [
            resample(Arm(str(i), tuple((run,) for run in runs[i * seeds : (i + 1) * seeds])), map_pooled, weights)
            for i in range(arms)
        ]
        values.append(tables[0].value - (tables[1].value if arms == 2 else 0))
        found.append(intervals(tables, generator))
    return summary(found, truth, 1.96 * float(np.std(values)))


def null_rates(cases: int, seeds: int, share: float, simulations: int, draws: int) -> tuple[float, float, float]:
    """How often p <= .05 for two arms of one recipe: permutation over cases, t over seeds and cases, the larger p."""
    generator = np.random.default_rng([cases, seeds, int(100 * share)])
    weights, found = draw_cases(cases, draws), []
    frame = np.arange(cases)
    for i in range(simulations):
        tables = scores(Scenario(2, share, False), cases, seeds, generator)
        a, b = (linear("", table, weights) for table in tables)
        arms = [Arm("", tuple((Outcome(frame, frame, row[:, None], frame),) for row in table)) for table in tables]
        p = swap_test(*arms, lambda outcome, w: _mean(outcome, w), flips=256, seed=i)
        found.append((p, estimate("", [(1.0, a), (-1.0, b)]).p))
    p = np.array(found)
    return float((p[:, 0] <= 0.05).mean()), float((p[:, 1] <= 0.05).mean()), float((p.max(1) <= 0.05).mean())


def guard_coverage(guard: float, arms: int, seeds: int, spread: float, simulations: int = 4000) -> tuple[float, float]:
    """(least coverage, half width at equal parts) over shares of the seeds and over cases, scores normal without
    interaction: then the parts of the variance are independent chi squares and need no draws.
    """
    generator = np.random.default_rng([arms, seeds])
    weights = np.array([1.0, spread**2])[:arms] / np.sum(np.array([1.0, spread**2])[:arms])
    found, width = [], 0.0
    for cases in CASES:
        for share in (0.1, 0.3, 0.5, 0.8, 0.9, 0.95):
            between = share * weights * generator.chisquare(seeds - 1, (simulations, arms)) / (seeds - 1)
            within = (1 - share) * generator.chisquare(cases - 1, simulations) / (cases - 1)
            parts = zip(between, within, strict=True)
            ends = np.array([guarded([(v, seeds - 1) for v in b], (w, cases - 1), guard) for b, w in parts])
            half = stats.t.ppf(0.975, ends[:, 1]) * ends[:, 0]
            found.append(float((np.abs(generator.standard_normal(simulations)) <= half).mean()))
            width = float(np.median(half)) / 1.96 if share == 0.5 else width
    return min(found), width


def print_guards() -> None:
    print("| of | seeds | " + " | ".join(f"guard {g} | width" for g in range(7)) + " |\n" + "|---" * 16 + "|")
    for what, arms, spread in (("arm", 1, 1.0), ("difference", 2, 1.0), ("difference, spread 3", 2, 3.0)):
        for seeds in SEEDS:
            found = [guard_coverage(guard, arms, seeds, spread) for guard in range(7)]
            print(f"| {what} | {seeds} | " + " | ".join(f"{c:.3f} | {w:.2f}" for c, w in found) + " |", flush=True)


def print_null(simulations: int, draws: int) -> None:
    print("| cases | seeds | share of seeds | permutation over cases | t | both |\n|---|---|---|---|---|---|")
    for cases, seeds in [(cases, seeds) for cases in (7, 40) for seeds in (2, 5)]:
        for share in (0.0, 0.1, 0.5):
            rates = null_rates(cases, seeds, share, simulations, draws)
            print(f"| {cases} | {seeds} | {share} | " + " | ".join(f"{r:.3f}" for r in rates) + " |", flush=True)


def _mean(outcome: Outcome, weights: np.ndarray | None) -> float:
    column = outcome.scores[:, 0]
    return float(column.mean() if weights is None else column @ weights / weights.sum())


def print_coverage(options: argparse.Namespace) -> None:
    print("| of | cases | seeds | least covered | " + " | ".join(f"{m} | width" for m in METHODS) + " |")
    print("|" + "---|" * (4 + 2 * len(METHODS)))
    for arms, cases, seeds in [(arms, cases, seeds) for arms in (1, 2) for cases in CASES for seeds in SEEDS]:
        if options.pooled:
            found = {"pooled mAP": pooled_coverage(arms, cases, seeds, options.simulations, options.draws)}
        else:
            found = {
                str(scenario): coverage(scenario, cases, seeds, options.simulations, options.draws)
                for scenario in scenarios()
                if scenario.arms == arms
            }
        for line in lines(found, options.all):
            print(f"| {'arm' if arms == 1 else 'difference'} | {cases} | {seeds} | {line} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--all", action="store_true", help="every scenario, not the worst")
    parser.add_argument("--pooled", action="store_true", help="a pooled mAP from predictions")
    parser.add_argument("--guards", action="store_true", help="other guards than the chosen one")
    parser.add_argument("--null", action="store_true", help="tests of equal arms")
    options = parser.parse_args()
    if options.guards:
        print_guards()
    elif options.null:
        print_null(options.simulations, options.draws)
    else:
        print_coverage(options)


def lines(found: dict[str, Table], every: bool) -> list[str]:
    """Cells of the table: every scenario, or for each method the one that it covers least."""
    if every:
        return [f"{name} | {_cells(result)}" for name, result in found.items()]
    worst = {m: min(found.values(), key=lambda result: result[m][0])[m] for m in METHODS}
    least = min(found, key=lambda name: found[name]["guarded"][0])
    return [f"{least} | {_cells(worst)}"]


def _cells(result: Table) -> str:
    return " | ".join(f"{result[m][0]:.3f} | {result[m][1]:.2f}" for m in METHODS)


if __name__ == "__main__":
    main()
