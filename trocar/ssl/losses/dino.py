"""DINO's loss and centre (Caron et al., arXiv 2104.14294, eq. 1-4 and algorithm 1).

lightly's DINOLoss computes the same, but updates its centre inside `forward`: a step that is later refused, or a loss
evaluated twice, would change the run. Here the loss is a pure function and the centre moves in `after_step`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def teacher_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((logits - centre) / temperature) in float32; logits [..., K], centre [K]."""
    return F.softmax((logits.float() - centre) / temperature, dim=-1)


def dino_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher view and a *different* student view, and over samples.

    `student` logits [V, b, K], the first T views being the teacher's own; `teacher` probabilities [T, b, K]. T (V - 1)
    terms: 18 for 2 global and 8 local views.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    T, V, b = teacher.shape[0], student.shape[0], student.shape[1]
    with torch.autocast(student.device.type, enabled=False):  # a product is what autocast would round to bfloat16
        pairs = -_products(teacher, log_p) / b
    own_view = torch.eye(T, V, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(own_view, 0.0).sum() / (T * (V - 1))


def _products(teacher: Tensor, log_p: Tensor) -> Tensor:
    """[T, b, K] and [V, b, K] -> [T, V], summed over samples and K.

    On a GPU sample by sample: b independent products, where one of T x V over b K values would keep few of its cores
    busy. A CPU's two threads are faster with the one.
    """
    if teacher.device.type == "cpu":
        return torch.einsum("tbk,vbk->tv", teacher, log_p)
    return _products_by_sample(teacher, log_p)


def _products_by_sample(teacher: Tensor, log_p: Tensor) -> Tensor:
    return torch.einsum("tbk,vbk->btv", teacher, log_p).sum(0)


def update_centre(centre: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """Eq. 4: m centre + (1 - m) mean of the teacher's logits over the global batch and its views."""
    return centre * momentum + batch_mean * (1 - momentum)


def prototypes_used(probabilities: Tensor) -> Tensor:
    """exp of the entropy of the mean of [..., K] distributions: how many of K outputs are in use, between 1 and K.

    Few, with a low entropy of each: images are sorted into as many clusters, and nothing else is learnt.
    """
    return torch.exp(torch.special.entr(probabilities.flatten(0, -2).mean(0)).sum())


def entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy in nats of [..., K] distributions: ln K is uniform, 0 is one-hot."""
    mean: Tensor = torch.special.entr(probabilities).sum(-1).mean()
    return mean
