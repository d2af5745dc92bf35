"""Losses that keep a network's features near those of an anchor network, as pure functions in float32.

Gram anchoring (DINOv3, Siméoni et al., arXiv 2508.10104): what the patches of a picture have in common with each other
is to stay, while each may turn. Kernel alignment (PaKA, arXiv 2509.05606): the same of centred patches whose lengths
count, whatever the scale of all. For pooled features, where there is one vector of a picture: the same matrix over the
pictures of a batch. Only the first argument of each takes a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trocar.ssl.blocks.heads import unit
from trocar.ssl.ranks.distributed import gather, gather_detached

_EPSILON = 1e-6  # of PaKA's published code, under each root


def gram_anchoring(student: Tensor, anchor: Tensor) -> Tensor:
    """Mean of (P P^T - Q Q^T)^2 over all N x N entries of each picture's Gram matrix and over pictures, 0 to 4.

    `student` and `anchor` [n, N, D] are patch tokens, whose unit vectors are the rows of P and Q; their widths may
    differ. Per picture, with negative cosines kept and all patches in, as DINOv3's large networks are trained.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = unit(student), unit(anchor.detach())
        return (ours @ ours.mT - theirs @ theirs.mT).square().mean()


def kernel_alignment(student: Tensor, anchor: Tensor) -> Tensor:
    """Mean of 1 - <K, L> / (|K| |L|) over pictures, 0 to 1: K and L are linear kernels of centred patch tokens.

    `student` and `anchor` [n, N, D], N > 1, are not normalised; their widths may differ. With the mean token taken away
    from each, X X^T is the double-centred kernel. Of a network with itself it is 0 unless |K|^2 is no more than 1e-6.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = _centred_kernel(student.float()), _centred_kernel(anchor.detach().float())
        norms = (ours.square().sum((1, 2)) + _EPSILON).sqrt() * (theirs.square().sum((1, 2)) + _EPSILON).sqrt()
        return 1 - ((ours * theirs).sum((1, 2)) / norms).mean()


def batch_gram_anchoring(student: Tensor, anchor: Tensor) -> Tensor:
    """`gram_anchoring` of one Gram matrix over all pictures of all ranks; a mean over this rank's rows of it, 0 to 4.

    `student` and `anchor` [n, D] are pooled features of n pictures; ranks have equally many. Averaged over ranks it is,
    with its gradient, what one rank gives.
    """
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = unit(student), unit(anchor.detach())
        return (ours @ gather(ours).T - theirs @ gather_detached(theirs).T).square().mean()


def _centred_kernel(tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(1, keepdim=True)
    return centred @ centred.mT
