"""Targets that use all prototypes alike (Sinkhorn-Knopp; Caron et al., SwAV, arXiv 2006.09882, appendix A)."""

from __future__ import annotations

import torch
from lightly.loss.swav_loss import sinkhorn
from torch import Tensor


@torch.no_grad()
def balanced_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Distributions [..., K] over prototypes, balanced over all samples of the leading axes and of all ranks.

    logits [..., K] are cosines, so that exp(logits / temperature) does not overflow; ranks have equally many. In
    float32.
    """
    flat = logits.float().flatten(0, -2)
    balanced: Tensor = sinkhorn(flat, iterations=iterations, epsilon=temperature, gather_distributed=True)
    return balanced.view(logits.shape)
