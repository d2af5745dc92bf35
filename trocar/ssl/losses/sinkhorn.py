"""Targets that use all prototypes alike (Sinkhorn-Knopp; Caron et al., SwAV, arXiv 2006.09882, appendix A).

lightly's `sinkhorn` gives each rank the same weight, however many samples it has; masked patches are of any number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trocar.ssl.distributed import mean_over_ranks


@torch.no_grad()
def balanced_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Distributions [..., K] over prototypes, balanced over all samples of the leading axes and of all ranks.

    logits [..., K] are cosines, so that exp(logits / temperature) does not overflow. In float32. Ranks may have
    different numbers of samples, also none.
    """
    share = torch.exp(logits.float().flatten(0, -2) / temperature)
    for _ in range(iterations):
        # Constant factors, such as 1 / K and 1 / number of samples, cancel in the next line.
        share = share / mean_over_ranks(share.sum(0))
        share = share / share.sum(1, keepdim=True)
    return share.view(logits.shape)
