"""iBOT's loss on masked patches (Zhou et al., arXiv 2111.07832, eq. 2, with the weights of DINOv2's reference code).

lightly's IBOTPatchLoss computes the same, but updates its centre inside `forward`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ibot_loss(student: Tensor, teacher: Tensor, weight: Tensor, views: int, temperature: float) -> Tensor:
    """Cross-entropy of masked patches: the mean over a view's masked patches, then the mean over all `views`.

    `student` logits [m, K] and `teacher` probabilities [m, K] of the same patches, `weight` [m] = 1 / masked patches of
    the patch's view. Views without a masked patch count with a loss of 0, as in the reference, and m may be 0.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    with torch.autocast(student.device.type, enabled=False):
        return -(torch.einsum("mk,mk->m", teacher, log_p) * weight).sum() / views
