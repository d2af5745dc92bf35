"""Class weights that make rare classes count as much as frequent ones."""

from __future__ import annotations

import numpy as np

from trocar.downstream.metrics.outcome import Floats, Ints


def balanced_weights(targets: Ints | Floats, classes: int) -> Floats:
    """float64 [K] from training labels [n] or [n, K]; entries below 0 are unlabelled and not counted.

    One label a frame: median frequency balancing, w_c = median over present classes of n / n_c (Eigen and Fergus,
    arXiv:1411.4734, with frequencies over all frames), as TeCNO has it. Inverse frequencies such as scikit-learn's
    `balanced` are these times a number, which the weighted mean of a cross-entropy takes out. Several labels: negatives
    / positives of each class; soft labels count as shares. A class without a positive, which no training frame can
    weigh, gets 1.
    """
    known = targets >= 0
    if targets.ndim == 1:
        counts = np.bincount(targets[known].astype(np.int64), minlength=classes).astype(np.float64)
        goal = np.full(classes, np.median(counts[counts > 0]) if counts.any() else 0.0)
    else:
        counts = np.where(known, targets, 0).astype(np.float64).sum(0)
        goal = known.sum(0) - counts
    found: Floats = np.divide(goal, counts, out=np.ones(classes), where=(counts > 0) & (goal > 0))
    return found
