"""Batch norm and ranks: statistics of the global batch, and batches shuffled between ranks.

MoCo (He et al., arXiv 1911.05722, section 3.3). The permutation follows from (seed, step), where the reference code
draws one on rank 0 and broadcasts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from trocar.core.random import Permutation
from trocar.errors import TrocarError
from trocar.ssl.ranks.distributed import gather_detached, is_distributed, own_slice

Moments = tuple[Tensor, Tensor, Tensor]


class AllReducedBatchNorm(_BatchNorm):
    """`nn.BatchNorm1d`, `2d` and `3d` with the statistics of all ranks in train mode; the same state.

    Ranks may hold batches of different sizes. Statistics are taken in float32 at least, also under autocast.
    """

    @override
    def forward(self, input: Tensor) -> Tensor:
        return _normalised(self, input)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected [n, c, ...], got {input.dim()} dimension(s)")


class AllReducedBatchNormAct(BatchNormAct2d):
    """timm's batch norm with dropout and activation behind it, with the statistics of all ranks in train mode."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(_normalised(self, x)))
        return out


def convert(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of `module` see the batch of all ranks; nothing changes without a process group.

    On a GPU these are torch's and timm's own SyncBatchNorm, on a CPU the ones of this file. Parameters, buffers and
    the keys of the state stay as they are. Use what is returned: the module itself may be a batch norm.

    Raises TrocarError for a batch norm of a kind that is not known.
    """
    if not is_distributed():
        return module
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and type(m) not in _SYNCHRONISED]
    if unknown := {type(m).__name__ for m in norms if type(m) not in _KINDS}:
        raise TrocarError(f"can't take {', '.join(sorted(unknown))} over all ranks; turn synchronised batch norm off")
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for norm in norms:
        norm.__class__ = _KINDS[type(norm)]
    return module


_KINDS: dict[type[_BatchNorm], type[_BatchNorm]] = {
    nn.BatchNorm1d: AllReducedBatchNorm,
    nn.BatchNorm2d: AllReducedBatchNorm,
    nn.BatchNorm3d: AllReducedBatchNorm,
    BatchNormAct2d: AllReducedBatchNormAct,
}
_SYNCHRONISED = (AllReducedBatchNorm, AllReducedBatchNormAct, nn.SyncBatchNorm, SyncBatchNormAct)


def _normalised(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not (norm.training and is_distributed()):
        return _BatchNorm.forward(norm, x)
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]
    mean, variance, count = _moments(x.detach())
    if norm.track_running_stats:
        _track(norm, mean, variance * (count / (count - 1)))
    out: Tensor = _Normalise.apply(x, norm.weight, norm.bias, mean, torch.rsqrt(variance + norm.eps), count)
    return out


@torch.no_grad()
def _moments(x: Tensor) -> Moments:
    """Mean [c], biased variance [c] and number of values [1] over all ranks (Chan et al. 1983), equal on each."""
    wide = _wide(x)
    variance, mean = torch.var_mean(wide, _others(x), correction=0)
    own = torch.cat([mean, variance, wide.new_full((1,), x.numel() / x.shape[1])])
    means, variances, counts = torch.split(gather_detached(own[None]), [len(mean), len(mean), 1], dim=1)
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), counts.sum(0)


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, unbiased: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # momentum None: the mean over all batches so far, counted on the device
    momentum = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked
    norm.running_mean += momentum * (mean.to(norm.running_mean.dtype) - norm.running_mean)
    norm.running_var += momentum * (unbiased.to(norm.running_var.dtype) - norm.running_var)


class _Normalise(torch.autograd.Function):
    """y = (x - mean) inv_std weight + bias, with the gradient through mean and variance over all ranks.

    dx = weight inv_std (dy - E[dy] - x^ E[dy x^]) with x^ the normalised input and E over all ranks. The gradients of
    weight and bias are this rank's: DistributedDataParallel reduces them as any other.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inv_std: Tensor, count: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inv_std, count)
        scale = inv_std if weight is None else inv_std * weight
        out = (_wide(x) - _along(mean, x)) * _along(scale, x)
        return (out if bias is None else out.add_(_along(bias, x))).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inv_std, count = ctx.saved_tensors
        dy, unit = _wide(gradients[0]), (_wide(x) - _along(mean, x)) * _along(inv_std, x)
        of_bias, of_weight = dy.sum(_others(x)), (dy * unit).sum(_others(x))
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        mean_dy, mean_dot = sums / count
        scale = inv_std if weight is None else inv_std * weight
        dx = (dy - _along(mean_dy, x)).sub_(unit.mul_(_along(mean_dot, x))).mul_(_along(scale, x)).to(x.dtype)
        return dx, None if weight is None else of_weight, of_bias if ctx.needs_input_grad[2] else None, None, None, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _others(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _along(per_channel: Tensor, x: Tensor) -> Tensor:
    return per_channel.view(1, -1, *[1] * (x.dim() - 2))


@dataclass(frozen=True)
class ShuffledBatch:
    """`shuffled` [b, ...]: this rank's share of the permuted global batch."""

    shuffled: Tensor
    _order: Tensor

    @staticmethod
    def of(x: Tensor, seed: int, step: int) -> ShuffledBatch:
        """Exchange the samples of x [b, ...] between ranks; ranks have equally many. One rank keeps its order."""
        if not is_distributed():
            return ShuffledBatch(x, torch.arange(len(x), device=x.device))
        everyone = gather_detached(x)
        order = permutation(len(everyone), seed, step).to(x.device, non_blocking=True)
        return ShuffledBatch(everyone[order[own_slice(x)]], order)

    def restored(self, y: Tensor) -> Tensor:
        """What was computed of `shuffled`, [b, ...], for the samples that this rank had before."""
        if not is_distributed():
            return y
        back = torch.argsort(self._order)
        return gather_detached(y)[back[own_slice(y)]]


def permutation(n: int, seed: int, step: int) -> Tensor:
    """int64[n]: sample `order[i]` of the global batch goes to place i."""
    return torch.from_numpy(Permutation(n, seed, "shuffle_bn", step)(np.arange(n)))
