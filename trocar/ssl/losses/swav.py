"""SwAV's codes (Caron et al., arXiv 2006.09882, section 3.1) and its loss, which is DINO's with codes as targets.

lightly's SwaVLoss computes the same, but gives no codes to look at, runs in the dtype of autocast, and its caller must
know on the host whether the queue is full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trocar.ssl.losses.dino import dino_loss
from trocar.ssl.losses.sinkhorn import balanced_probabilities


@torch.no_grad()
def codes(scores: Tensor, queued: Tensor | None, epsilon: float, iterations: int) -> Tensor:
    """Distributions [T, b, K] over the prototypes: Sinkhorn-Knopp of each view by itself, over all ranks.

    `scores` [T, b, K] are cosines of embeddings and prototypes, `queued` [T, q, K] those of this rank's share of
    earlier embeddings: they take part in the balance, and their codes are dropped. Ranks have equally many of both.
    """
    b = scores.shape[1]
    samples = scores if queued is None else torch.cat([scores, queued], 1)
    return torch.stack([balanced_probabilities(view, epsilon, iterations)[:b] for view in samples])


def swapped_prediction(scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Eq. 2 with multi-crop (section 3.2): cross-entropy of each view's softmax with the codes of every other view.

    `scores` [V, b, K], the first T views being those of the codes `targets` [T, b, K]; mean over the T (V - 1) pairs of
    different views and over samples.
    """
    return dino_loss(scores, targets, temperature)
