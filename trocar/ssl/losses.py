"""Losses: pure functions of network outputs, in float32, each with its source.

DINO's loss and centre (Caron et al., arXiv 2104.14294, eq. 1-4 and algorithm 1); iBOT's loss on masked patches (Zhou
et al., arXiv 2111.07832, eq. 2, with the weights of DINOv2's reference code). lightly's DINOLoss and IBOTPatchLoss
compute the same, but update their centres inside `forward`: a step that is later refused, or a loss evaluated twice,
would change the run. Here the losses are pure functions and the centres move in `after_step`.

KoLeo: features keep their distance from each other (Sablayrolles et al., arXiv 1806.03198, eq. 3).

SwAV's codes (Caron et al., arXiv 2006.09882, section 3.1) and its loss, which is DINO's with codes as targets.
lightly's SwaVLoss computes the same, but gives no codes to look at, runs in the dtype of autocast, and its caller
must know on the host whether the queue is full. Targets that use all prototypes alike are made by Sinkhorn-Knopp
(appendix A): lightly's `sinkhorn` gives each rank the same weight, however many samples it has, and masked patches
are of any number.

Contrastive losses: equal frames are never negatives of each other, since the seam of two epochs may repeat a frame.
lightly's NTXentLoss knows no rows, so a frame that a batch or a queue holds twice would be pushed away from itself.

Losses between a student's features and those of a frozen teacher: the feature losses compare a frame with itself, so
they need features of one width. The relational ones compare what a batch looks like in two spaces of any widths.
There are no negatives, so a frame that is in a batch twice does no harm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.ssl.blocks.heads import unit
from trocar.ssl.ranks.distributed import gather, gather_detached, max_over_ranks, mean_over_ranks, own_slice


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


def nt_xent(first: Tensor, second: Tensor, rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """NT-Xent over the global batch (SimCLR, eq. 1): mean over this rank's 2 b views, and the share ranked first.

    `first`, `second` float32[b, D] at unit length, `rows` int64[b] of their frames. For view i with partner j:
    -log(exp(s_ij / t) / sum over k of exp(s_ik / t)), where k is j or any view of another frame, of all ranks.
    """
    with torch.autocast(first.device.type, enabled=False):
        mine = torch.cat([first, second])
        everyone = torch.cat([gather(first), gather(second)])
        all_rows = gather_detached(rows)
        size, place = len(all_rows), own_slice(rows)
        partner = torch.cat([place + size, place])
        logits = mine @ everyone.T / temperature
        same_frame = rows.repeat(2)[:, None] == all_rows.repeat(2)[None]
        same_frame.scatter_(1, partner[:, None], False)
        logits = logits.masked_fill(same_frame, -torch.inf)
        return F.cross_entropy(logits, partner), (logits.argmax(1) == partner).float().mean()


def info_nce(query: Tensor, key: Tensor, negatives: Tensor, same_frame: Tensor, temperature: float) -> Tensor:
    """InfoNCE with a bank of negatives (MoCo, He et al., arXiv 1911.05722, eq. 1): mean over the samples.

    `query`, `key` [b, D] and `negatives` [K, D] at unit length; `same_frame` bool[b, K] marks negatives that are of the
    query's own frame, which are left out. Only `query` takes a gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, negatives = query.float(), key.float().detach(), negatives.float().detach()
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, (query @ negatives.T).masked_fill(same_frame, -torch.inf)], 1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


def batch_contrast(query: Tensor, keys: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """InfoNCE whose negatives are the other samples' keys of the global batch (MoCo v3, arXiv 2104.02057, algorithm 1).

    `query` [b, D] with gradient and `keys` [b, D] without, at unit length; `rows` int64[b]. Multiplied by 2 temperature
    as in the reference code, so that the learning rate needs no change with the temperature.
    """
    with torch.autocast(query.device.type, enabled=False):
        all_keys, all_rows = gather_detached(keys.float()), gather_detached(rows)
        partner = own_slice(rows)
        same_frame = rows[:, None] == all_rows[None]
        same_frame.scatter_(1, partner[:, None], False)
        logits = (query.float() @ all_keys.T / temperature).masked_fill(same_frame, -torch.inf)
        return 2 * temperature * F.cross_entropy(logits, partner)


SHORTEST = 1e-3
"""Share of the mean side below which a side does not get the length 1: its direction is noise, its gradient huge."""


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cos over features [..., D] (AM-RADIO, Ranzinger et al., arXiv 2312.06709, section 3.3).

    For pooled features that paper found it better than L1, MSE and smooth L1.
    """
    with torch.autocast(student.device.type, enabled=False):
        return 1 - F.cosine_similarity(student.float(), teacher.float().detach(), dim=-1).mean()


def whitened_smooth_l1(student: Tensor, teacher: Tensor, beta: float = 2.0) -> Tensor:
    """Mean smooth L1 between features [..., D] and the teacher's, standardised over D (Wei et al., arXiv 2205.14141).

    Standardised as a layer norm without scale and shift does it; with that, teachers of any scale do with one `beta`
    (2 in the paper): |d| - beta / 2 beyond it, d^2 / (2 beta) within.
    """
    with torch.autocast(student.device.type, enabled=False):
        target = teacher.float().detach()
        return F.smooth_l1_loss(student.float(), F.layer_norm(target, target.shape[-1:]), beta=beta)


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D (Park et al., arXiv 1904.05068, eq. 4-6): Huber loss between distances, in units of their mean.

    student [..., n, D], teacher [..., n, E], n >= 2; a mean over all ordered pairs of different samples, and over the
    leading axes, each of which has a mean distance of its own.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = _distances(student.float()), _distances(teacher.float().detach())
        return F.smooth_l1_loss(ours, theirs)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A (Park et al., arXiv 1904.05068, eq. 7-8): Huber loss between the cosines of all angles of triangles.

    student [..., n, D], teacher [..., n, E], n >= 3; a mean over all ordered triples of different samples. Takes n^2 D
    and n^3 numbers. Sides much shorter than others (two black frames) count as right angles instead of at random.
    """
    n = student.shape[-2]
    index = torch.arange(n, device=student.device)
    differ = index[:, None] != index[None]
    triples = differ[:, :, None] & differ[:, None, :] & differ[None]
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = _angles(student.float()), _angles(teacher.float().detach())
        errors = F.smooth_l1_loss(ours, theirs, reduction="none").masked_fill(~triples, 0.0)
        return errors.sum((-3, -2, -1)).mean() / (n * (n - 1) * (n - 2))


def in_groups(x: Tensor, size: int) -> Tensor:
    """[..., n, D] -> [..., n // size, size, D], consecutive samples together; the rest is left out, n < size is one."""
    size = min(size, x.shape[-2])
    count = x.shape[-2] // size
    return x[..., : count * size, :].reshape(*x.shape[:-2], count, size, x.shape[-1])


def _distances(x: Tensor) -> Tensor:
    """[..., n, D] -> [..., n - 1, n]: all distances between different samples, over their mean."""
    n = x.shape[-2]
    # Not by a matrix product: what it cancels is most of the distance between two frames of a second.
    full = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    # The diagonal is every (n + 1)-th number: without the first, rows of n + 1 have it at their end.
    others = full.flatten(-2)[..., 1:].reshape(*x.shape[:-2], n - 1, n + 1)[..., :-1]
    relative: Tensor = others / others.mean((-2, -1), keepdim=True).clamp_min(1e-12)
    return relative


def _angles(x: Tensor) -> Tensor:
    """[..., n, D] -> [..., n, n, n]: at [j, i, k] the cosine of the angle at j between the sides to i and to k."""
    sides = x[..., None, :, :] - x[..., :, None, :]
    lengths = torch.linalg.vector_norm(sides, dim=-1, keepdim=True)
    shortest = SHORTEST * lengths.detach().mean((-3, -2), keepdim=True)
    sides = sides / lengths.clamp_min(shortest.clamp_min(1e-12))
    cosines: Tensor = sides @ sides.transpose(-1, -2)
    return cosines
