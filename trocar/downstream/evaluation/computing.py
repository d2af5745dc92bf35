"""On what an evaluation computes, and in what: settled once, before anything is computed, and on record."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from trocar.backbones.device import choose_device
from trocar.backbones.precision import Precision, float32_means_float32, resolved
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig


@dataclass(frozen=True)
class Computing:
    """`device` is `cpu` or `cuda`, `precision` what networks compute in there, but for a protocol that says its own."""

    device: str
    precision: Precision

    @staticmethod
    def of(config: EvaluateConfig) -> Computing:
        """Raises ConfigError for a device that isn't there, or doesn't have the precision."""
        device = choose_device(config.device)
        return Computing(device, resolved(config.precision, torch.device(device)))

    def products(self) -> AbstractContextManager[None]:
        """Within, a float32 product on a GPU is one, unless networks compute in bfloat16 beside it."""
        return float32_means_float32(torch.device(self.device), self.precision)

    def record(self) -> dict[str, Any]:
        """For results.json: what numbers of two machines may differ by."""
        on_gpu = self.device != "cpu"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "precision": self.precision,
            "tf32": on_gpu and self.precision == "bfloat16",
        }
