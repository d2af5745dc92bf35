"""The configuration of one evaluation; the flags of `trocar evaluate` have the same names.

On what an evaluation computes, and in what: settled once, before anything is computed, and on record.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from trocar.backbones.device import Precision, Wanted, choose_device, float32_means_float32, resolved
from trocar.core.config import AsWritten, Config
from trocar.privacy.marks import NO_MARKS, Marks, PrivacyConfig
from trocar.runs.mlflow.tracking_config import TrackingConfig


class EvaluateConfig(Config):
    """What is compared, on which labels, and how.

    `backbone`: `PATH`, `NAME`, or `LABEL=PATH,PATH,...` for several seeds of one arm. `seeds`: draws of every
    random-weights baseline. `task`: names; `phase+tools` learns two together. `protocol`: names, or
    `{name: ..., its settings}`. `repeats`: runs of a protocol that trains something with a random start. `size`: pixels
    of the square input (None: what each backbone was trained with). `fps`: labelled frames per second used. `folds`:
    auto, split, leave-one-case-out or a number of grouped folds. `split`: a published split list. `val`: auto,
    official, within_budget or carve_out. `budget`: labelled training cases: a number, a share such as `25%`, or a list
    published for the data set; `draws`: how many draws of it. `remap`: a file that merges classes of masks. `shards`: a
    folder of `trocar ingest` to read frames from. `phases`: class names in order, for a data set with its own.
    `baselines`: the arms added for comparison. `batch`: frames at a time through a frozen backbone (None: 64 on a CPU,
    512 on a GPU, or as many as fit). `precision`: what networks compute in; auto is bfloat16 on a GPU that has it, else
    float32. `workers`: processes that crop for a network that trains on a GPU (None: what the machine has; nothing
    depends on it). `bootstrap`: draws of cases for the intervals, 0 for none. `figures`:
    whether pictures of the predictions are drawn into OUT/figures. `private`: what of the data must not be shown,
    besides what DATA/private.yaml and the shards mark; `privacy`: whether it is shown nevertheless. `tracking`: where
    the results are logged besides OUT, nowhere by default.
    """

    backbone: list[str] = []
    data: Path
    layout: str | None = None
    task: list[str] = Field(default=["phase"], min_length=1)
    protocol: list[str | dict[str, Any]] = Field(default=["linear"], min_length=1)
    seeds: int = Field(default=3, ge=1, le=100)
    repeats: int = Field(default=1, ge=1, le=100)
    size: int | None = Field(default=None, ge=16, le=2048)
    fps: float = Field(default=1.0, gt=0)
    folds: str | int = "auto"
    split: str | None = None
    val: str = "auto"
    budget: str | int | None = None
    draws: int = Field(default=1, ge=1, le=100)
    remap: str | None = None
    shards: Path | None = None
    phases: list[AsWritten] = []
    baselines: list[str] = ["random", "raw pixels", "mean colour", "time", "majority"]
    bootstrap: int = Field(default=1000, ge=0, le=100_000)
    batch: int | None = Field(default=None, ge=1)
    device: str = "auto"
    precision: Wanted = "auto"
    workers: int | None = Field(default=None, ge=0, le=256)
    out: Path | None = None
    cache: Path | None = None
    figures: bool = True
    private: Marks = NO_MARKS
    privacy: PrivacyConfig = PrivacyConfig()
    tracking: TrackingConfig = TrackingConfig(uri="none")


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
