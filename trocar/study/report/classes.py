"""What masks score class by class, of tasks whose data declare a background: a mean hides the rare classes."""

from __future__ import annotations

from html import escape

import numpy as np

from trocar.downstream.metrics.segmentation import per_class, row_mean
from trocar.downstream.metrics.segmentation_offered import class_lines
from trocar.downstream.metrics.segmentation_outcome import SegmentationOutcome
from trocar.study.report.analysis import Compared
from trocar.study.report.html import cell, head, number, table


def class_table(one: Compared) -> str:
    """IoU of every class, the background last, and of every arm the mean over its runs; empty for other tasks."""
    values: dict[str, list[np.ndarray]] = {arm.name: [] for arm in one.arms}
    last: SegmentationOutcome | None = None
    for score in one.scores:
        outcome = score.outcome
        if not isinstance(outcome, SegmentationOutcome) or outcome.background is None:
            return ""
        last = outcome
        values[score.arm].append(per_class(outcome))
    if last is None or last.background is None:
        return ""
    means = {arm: row_mean(np.stack(runs, axis=1)) for arm, runs in values.items()}
    rows = []
    for name, line in class_lines(last.classes, last.classes[last.background]).items():
        place = last.classes.index(name)
        cells = [cell(number(float(mean[place])), "number") for mean in means.values()]
        rows.append(f"<tr><th scope=row>{escape(line)}</th>{''.join(cells)}</tr>")
    numbers = tuple(range(1, len(means) + 1))
    return f"<h4>IoU by class</h4>{table(head(['Class', *means], numbers), rows)}"
