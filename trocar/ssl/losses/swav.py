"""SwAV's codes (Caron et al., arXiv 2006.09882, section 3.1) and its loss, which is DINO's with codes as targets.

lightly's SwaVLoss computes the same, but gives no codes to look at, runs in the dtype of autocast, and its caller must
know on the host whether the queue is full.

Targets that use all prototypes alike (Sinkhorn-Knopp; Caron et al., SwAV, arXiv 2006.09882, appendix A).

lightly's `sinkhorn` gives each rank the same weight, however many samples it has; masked patches are of any number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trocar.ssl.losses.dino import dino_loss
from trocar.ssl.ranks.distributed import max_over_ranks, mean_over_ranks


@torch.no_grad()
def balanced_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Distributions [..., K] over prototypes, balanced over all samples of the leading axes and of all ranks.

    logits [..., K]. In float32. Ranks may have different numbers of samples, also none.
    """
    flat = logits.float().flatten(0, -2)
    # Not below e^-80: a sample that is far from all prototypes would have no share at all, and 0 / 0 in its place.
    share = torch.exp(((flat - _largest(flat)) / temperature).clamp_min(-80))
    for _ in range(iterations):
        # Constant factors, such as 1 / K and 1 / number of samples, cancel in the next line.
        share = share / mean_over_ranks(share.sum(0))
        share = share / share.sum(1, keepdim=True)
    return share.view(logits.shape)


def _largest(flat: Tensor) -> Tensor:
    """The largest logit [K] of each prototype over all samples of all ranks.

    The first iteration scales each prototype anyway. With its largest logit at 0 nothing overflows, and a prototype
    that is far from all samples, as in a collapsed network, does not become 0 / 0.
    """
    largest = flat.amax(0) if len(flat) else flat.new_full(flat.shape[1:], -torch.inf)
    return max_over_ranks(largest)


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
