"""The dilated convolutions that MS-TCN and its relatives are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DilatedConvolution(nn.Module):
    """Convolution over time that keeps the length: [1, C, T] -> [1, C, T].

    Causal: tap k of K reaches (K - 1 - k) * dilation frames back. Centred otherwise, which takes an odd K.
    Frames before the first and after the last are zeros.
    """

    def __init__(self, maps: int, kernel: int, dilation: int, causal: bool) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.conv = nn.Conv1d(maps, maps, kernel, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, self.padding))
        return result


class DilatedResidual(nn.Module):
    """x + dropout(conv 1x1(relu(dilated conv(x)))), the layer of MS-TCN (arXiv:1903.01945,
    `DilatedResidualLayer`).
    """

    def __init__(self, maps: int, kernel: int, dilation: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.dilated = DilatedConvolution(maps, kernel, dilation, causal)
        self.mix = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.dropout(self.mix(torch.relu(self.dilated(x))))
        return x + residual


class DilatedStage(nn.Sequential):
    """1x1 in, `layers` dilated residual layers with dilation 1, 2, 4, ..., 1x1 out: [1, D, T] -> [1, K, T]."""

    def __init__(
        self, inputs: int, classes: int, *, layers: int, maps: int, kernel: int, causal: bool, dropout: float
    ) -> None:
        body = [DilatedResidual(maps, kernel, 2**i, causal, dropout) for i in range(layers)]
        super().__init__(nn.Conv1d(inputs, maps, 1), *body, nn.Conv1d(maps, classes, 1))
