"""Label-free health of a representation, and naming a collapse in words."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the std over samples of unit-length features [m, D], times sqrt(D).

    1 for directions spread evenly over the sphere, 0 when all samples are mapped to one point (Chen & He, "Exploring
    simple siamese representation learning", arXiv 2011.10566, section 4.1).
    """
    z = F.normalize(features.float(), dim=-1)
    return z.std(0, unbiased=False).mean() * math.sqrt(z.shape[-1])


def rankme(features: Tensor) -> Tensor:
    """RankMe (Garrido et al., arXiv 2210.02885): exp of the entropy of the normalised *singular values* of [m, D].

    Between 1 and min(m, D), and bounded by the m of the sample: compare only values from equal m.
    """
    values = torch.linalg.svdvals(features.float())
    p = values / values.sum().clamp_min(1e-12) + 1e-7
    return torch.exp(-(p * p.log()).sum())


def collapse(loss: float, entropy: float | None, uniform: float | None, progress: float) -> str | None:
    """What a flat run has collapsed to, in words, or None. `uniform` is ln K; `progress` 0..1 of the run.

    DINO starts at ln K, so the first fifth of a run isn't judged.
    """
    if uniform is None or progress < 0.2:
        return None
    if abs(loss - uniform) < 0.01 * uniform and (entropy is None or entropy > 0.98 * uniform):
        return (
            f"collapse: the loss {loss:.3f} stands at ln K = {uniform:.3f}, every output is uniform. "
            f"Usual remedies: fewer prototypes, a lower teacher temperature, a longer warm-up, "
            f"momentum nearer 0.99 on small data"
        )
    if entropy is not None and entropy < 1e-3 and loss < 1e-3:
        return (
            "collapse: loss and teacher entropy are 0, every image gets one prototype. "
            "Usual remedies: a higher teacher temperature, centre momentum 0.9, a lower learning rate"
        )
    return None
