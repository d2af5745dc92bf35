"""Contrastive losses. Equal frames are never negatives of each other: the seam of two epochs may repeat a frame.

lightly's NTXentLoss knows no rows, so a frame that a batch or a queue holds twice would be pushed away from itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.ssl.ranks.distributed import gather, gather_detached, own_slice


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
