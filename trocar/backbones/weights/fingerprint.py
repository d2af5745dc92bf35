"""A numeric fingerprint of a backbone: what it answers to one fixed picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trocar.backbones.preprocess import describe_backbone
from trocar.errors import ConfigError

TOLERANCE = 1e-3
"""Allowed difference, relative to the features' standard deviation: kernels and threads move the sixth digit."""
VERSION = "f1"


@dataclass(frozen=True)
class Fingerprint:
    """Mean, standard deviation and three fixed projections of the pooled features of one fixed picture."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        return ":".join([VERSION, *(f"{value:.6g}" for value in self.values)])

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """The inverse of `str`. Raises ConfigError for anything else."""
        version, *values = text.split(":")
        try:
            numbers = tuple(float(value) for value in values)
        except ValueError:
            numbers = ()
        if version != VERSION or len(numbers) != 5:
            raise ConfigError(f"{text!r} is no fingerprint; expected {VERSION} and five numbers, divided by colons")
        return cls(numbers)

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same weights, up to rounding on another machine."""
        scale = max(abs(other.values[1]), 1e-12)
        return all(abs(a - b) <= TOLERANCE * scale for a, b in zip(self.values, other.values, strict=True))


def same_value(first: object, second: object) -> bool:
    """Equal, or written fingerprints of the same weights: another machine rounds them differently."""
    if first == second:
        return True
    if not all(isinstance(x, str) and x.startswith(f"{VERSION}:") for x in (first, second)):
        return False
    return Fingerprint.parse(str(first)).matches(Fingerprint.parse(str(second)))


@torch.no_grad()
def fingerprint(model: nn.Module) -> Fingerprint:
    """Of a timm model with pooled output, at its own input size; the model's mode is left as it was."""
    shape = describe_backbone(model)
    first = next(model.parameters())
    channels = int(
        getattr(model, "in_chans", None) or dict(getattr(model, "pretrained_cfg", {})).get("input_size", (3,))[0]
    )
    was_training = model.training
    model.eval()
    try:
        features = model(_picture(channels, *shape.size).to(first)).float().flatten().cpu()
    finally:
        model.train(was_training)
    n = torch.arange(len(features), dtype=torch.float64)
    waves = [torch.sin(n * w) * math.sqrt(2 / len(features)) for w in (0.7, 1.9, 3.1)]
    values = [features.mean(), features.std(), *(features.double() @ wave for wave in waves)]
    return Fingerprint(tuple(float(value) for value in values))


def _picture(channels: int, height: int, width: int) -> Tensor:
    """A smooth, coloured pattern without symmetry, normalised like a picture: [1, channels, height, width]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    planes = [torch.sin(6 * x + 2 * c) * torch.cos(9 * y - c) + torch.sin(40 * x * y + c) / 2 for c in range(channels)]
    return torch.stack(planes)[None]
