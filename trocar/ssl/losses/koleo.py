"""KoLeo: features keep their distance from each other (Sablayrolles et al., arXiv 1806.03198, eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.ssl.blocks.heads import unit
from trocar.ssl.ranks.gather import gather, gather_detached

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
