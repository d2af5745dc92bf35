"""Standard deviations that stand beside published means. They differ by what they are over, and by ddof."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Outcome, case_means, mean_defined, ratio
from trocar.downstream.metrics.phase import MEASURES, by_case_and_class, counts_by_case


def deviation(values: Floats, ddof: int = 1) -> float:
    """Standard deviation of the defined values [m]; NaN for fewer than 2."""
    defined = values[~np.isnan(values)]
    return float(np.std(defined, ddof=ddof)) if len(defined) > 1 else float("nan")


def phase_spread(outcome: Outcome) -> dict[str, float]:
    """Deviations (ddof = 1, SurgPhaseBench and Matlab's `std`; numpy's default is ddof = 0) by name.

    `accuracy@std_video` and `<measure>@std_video` are over cases of the value per case (rule A);
    `<measure>@std_phase` is over phases of the mean over cases (rule B), what Main.m prints behind its
    means. Neither says how sure the mean is: that is the interval.
    """
    counts = outcome.once(counts_by_case)
    found = {"accuracy@std_video": deviation(ratio(counts.hit.sum(1), counts.actual.sum(1)))}
    for name, measure in MEASURES.items():
        found[f"{name}@std_video"] = deviation(mean_defined(by_case_and_class(outcome, measure, "A")))
        found[f"{name}@std_phase"] = deviation(case_means(by_case_and_class(outcome, measure, "B"), None))
    return found
