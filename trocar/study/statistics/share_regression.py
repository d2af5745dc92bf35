"""Regression of the metric on the arms' shares of sources, where the design identifies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trocar.downstream.metrics.outcome import Floats
from trocar.study.statistics.crossed import Crossed, Estimate
from trocar.study.statistics.result import Result


@dataclass(frozen=True)
class ShareRegression(Result):
    """Least squares over arms with one column per source, its share of the arm, and `log2 size` (centred) where arms
    differ in size. Shares add up to 1, so there is no intercept: `values[source]` is the metric that the line gives
    an arm of that source alone, of the mean log size; `values["log2 size"]` what a doubling adds.

    Intervals hold the seeds and cases of the arms, not the line's own error: `misfit` is the root mean square of its
    residuals with `spare` arms more than columns (None without any). `reason` says why there is none.
    """

    values: Mapping[str, Estimate]
    columns: tuple[str, ...]
    arms: int
    rank: int
    misfit: float | None
    spare: int
    reason: str | None


def share_regression(
    crossed: Crossed, amounts: Mapping[str, Mapping[str, float]], sources: Sequence[str]
) -> ShareRegression:
    """Fit the arms in `amounts` (arm -> source -> amount, all above 0), or say why they don't identify the values."""
    design, columns = design_matrix(amounts, sources)
    arms, rank = list(amounts), int(np.linalg.matrix_rank(design)) if design.size else 0
    spare = len(arms) - len(columns)
    if rank < len(columns) or not sources:
        return ShareRegression({}, columns, len(arms), rank, None, spare, _reason(design, columns, rank))
    # Least squares is linear in the scores: every coefficient is a weighted sum of arms.
    weights = np.linalg.pinv(design)
    values = {
        column: crossed.linear(column, dict(zip(arms, row.tolist(), strict=True)))
        for column, row in zip(columns, weights, strict=True)
    }
    scores = np.array([crossed[arm].value for arm in arms])
    residuals = scores - design @ (weights @ scores)
    misfit = float(np.sqrt(residuals @ residuals / spare)) if spare else None
    return ShareRegression(values, columns, len(arms), rank, misfit, spare, None)


def design_matrix(amounts: Mapping[str, Mapping[str, float]], sources: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """Rows of the arms, float64 [arms, columns], and the columns' names."""
    table = np.array([[mix.get(source, 0.0) for source in sources] for mix in amounts.values()], dtype=np.float64)
    table = table.reshape(len(amounts), len(sources))
    sizes = table.sum(1)
    shares = table / sizes[:, None]
    if len(set(sizes.tolist())) < 2:
        return shares, tuple(sources)
    doublings = np.log2(sizes)
    return np.column_stack([shares, doublings - doublings.mean()]), (*sources, "log2 size")


def _reason(design: Floats, columns: Sequence[str], rank: int) -> str:
    """Names the columns that some combination of the others gives: those in the design's null space."""
    if not columns:
        return "not identifiable: no arm saw a source"
    _, _, right = np.linalg.svd(design)
    tangled = [column for column, part in zip(columns, np.abs(right[rank:]).max(0), strict=True) if part > 1e-8]
    return (
        f"not identifiable: {len(design)} arms give rank {rank}, {len(columns)} columns need {len(columns)}; "
        f"the arms don't tell apart {', '.join(tangled)}"
    )
