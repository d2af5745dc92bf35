"""Cross-entropy plus Dice."""

from __future__ import annotations

import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

IGNORE = 255
"""The label of pixels that count neither in the loss nor in any metric."""


def segmentation_loss(
    logits: Tensor, target: Tensor, *, dice: float = 1.0, weights: Tensor | None = None, labelled: bool | None = None
) -> Tensor:
    """CE + `dice` x (1 - soft Dice), a scalar.

    logits float [b, K, H, W], target int64 [b, H, W] of 0 .. K - 1 or 255. CE is the mean over the pixels that are
    not 255, each with the weight of its class (`weights`, float [K]). Soft Dice is smp's: 2 sum(p y) / (sum p + sum y)
    per class over the whole batch, mean over all K classes; a class that the batch does not have adds 0 to that loss.
    0, and no gradient, for a batch without labelled pixels; `labelled` says whether it has any, where that is known:
    asking a GPU for it would wait for all that is queued.
    """
    if not (bool((target != IGNORE).any()) if labelled is None else labelled):
        return logits.sum() * 0.0  # the mean over no pixel would be 0 / 0
    loss = F.cross_entropy(logits, target, weight=weights, ignore_index=IGNORE)
    if dice:
        soft: Tensor = DiceLoss("multiclass", ignore_index=IGNORE)(logits, target)
        loss = loss + dice * soft
    return loss
