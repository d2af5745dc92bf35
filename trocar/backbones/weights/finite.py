"""Weights are numbers: NaN and infinity are refused wherever a network is loaded or saved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trocar.errors import TrocarError

NOT_FINITE = "NaN or infinity among its values"
SHOWN = 12


def require_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Raises TrocarError that names every tensor of `state` with NaN or infinity among its values; `origin` says whose.

    One such value makes all features NaN, and what is fitted on them still gets a score. A scalar may be infinite: it
    is a bound that is not set (the clipped layers of timm's gemma4 have such).
    """
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if not wrong:
        return
    lines = [f"  {name}: {NOT_FINITE}" for name in wrong[:SHOWN]]
    lines += [f"  ... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    raise TrocarError(f"{origin}: weights that are not finite cannot be used:\n" + "\n".join(lines))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    return not bool(tensor.isnan()) if tensor.ndim == 0 else bool(torch.isfinite(tensor).all())
