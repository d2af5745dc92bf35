"""DINO's loss and centre (Caron et al., arXiv 2104.14294, eq. 1-4 and algorithm 1).

lightly's DINOLoss computes the same, but updates its centre inside `forward`: a step that is later refused, or a loss
evaluated twice, would change the run. Here the loss is a pure function and the centre moves in `after_step`.

iBOT's loss on masked patches (Zhou et al., arXiv 2111.07832, eq. 2, with the weights of DINOv2's reference code).

lightly's IBOTPatchLoss computes the same, but updates its centre inside `forward`.

KoLeo: features keep their distance from each other (Sablayrolles et al., arXiv 1806.03198, eq. 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.ssl.blocks.heads import unit
from trocar.ssl.ranks.distributed import gather, gather_detached


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


def ibot_loss(student: Tensor, teacher: Tensor, weight: Tensor, views: int, temperature: float) -> Tensor:
    """Cross-entropy of masked patches: the mean over a view's masked patches, then the mean over all `views`.

    `student` logits [m, K] and `teacher` probabilities [m, K] of the same patches, `weight` [m] = 1 / masked patches of
    the patch's view. Views without a masked patch count with a loss of 0, as in the reference, and m may be 0.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    with torch.autocast(student.device.type, enabled=False):
        return -(torch.einsum("mk,mk->m", teacher, log_p) * weight).sum() / views


_EPSILON = 1e-8  # of DINOv2's reference code, in the distance and in the logarithm


def koleo(features: Tensor, rows: Tensor) -> Tensor:
    """-log of the distance to the nearest other sample, mean over this rank's samples; a distance is 0 to 2.

    `features` [b, D] of one view of each sample, of any length, `rows` int64[b] of their frames. Neighbours are sought
    in the global batch, so that two ranks give what one gives; DINOv2 seeks them within a rank. Samples of the same
    frame aren't driven apart.
    """
    with torch.autocast(features.device.type, enabled=False):
        mine = unit(features)
        everyone, all_rows = gather(mine), gather_detached(rows)
        with torch.no_grad():
            similarity = (mine @ everyone.T).masked_fill(rows[:, None] == all_rows[None], -2.0)
            nearest = similarity.argmax(1)
        distance = F.pairwise_distance(mine, everyone.index_select(0, nearest), eps=_EPSILON)
        return -torch.log(distance + _EPSILON).mean()
