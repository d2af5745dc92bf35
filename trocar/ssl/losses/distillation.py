"""Losses between a student's features and those of a frozen teacher.

The feature losses compare a frame with itself, so they need features of one width. The relational ones compare what a
batch looks like in two spaces of any widths. There are no negatives, so a frame that is in a batch twice does no harm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
