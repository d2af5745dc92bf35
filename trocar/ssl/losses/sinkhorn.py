"""Targets that use all prototypes alike (Sinkhorn-Knopp; Caron et al., SwAV, arXiv 2006.09882, appendix A)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightly.loss.swav_loss import sinkhorn
from torch import Tensor

from trocar.ssl.distributed import is_distributed


@torch.no_grad()
def balanced_probabilities(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Distributions [..., K] over prototypes, balanced over all samples of the leading axes and of all ranks.

    logits [..., K]; ranks have equally many. In float32.
    """
    flat = logits.float().flatten(0, -2)
    # The first iteration scales each prototype anyway. With its largest logit at 0 nothing overflows, and a prototype
    # that is far from all samples, as in a collapsed network, does not become 0 / 0.
    largest = flat.amax(0)
    if is_distributed():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    balanced: Tensor = sinkhorn(flat - largest, iterations=iterations, epsilon=temperature, gather_distributed=True)
    return balanced.view(logits.shape)
