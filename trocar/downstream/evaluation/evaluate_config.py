"""The configuration of one evaluation; the flags of `trocar evaluate` have the same names.

On what an evaluation computes, and in what: settled once, before anything is computed, and on record.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from trocar.backbones.device import Precision, Wanted, choose_device, float32_means_float32, resolved
from trocar.core.config import WithPlugins
from trocar.core.resources import granted_cores
from trocar.data.labelled_data import LabelledFolder
from trocar.data.loading.workers import MOST
from trocar.downstream.datasets.base import DatasetOptions
from trocar.privacy.private_data import PrivacyConfig
from trocar.runs.mlflow_server import TrackingConfig


class LabelledTask(LabelledFolder):
    """A labelled data set, and how models are trained and scored on it."""

    protocol: list[str | dict[str, Any]] = Field(
        default=["linear"], min_length=1, description="names of protocols, or `{name: ..., its settings}`"
    )
    folds: str | int = Field(
        default="auto", description="`auto`, `split`, `leave-one-case-out` or a number of grouped folds"
    )
    val: str = Field(
        default="auto",
        description="where validation cases come from: `auto`, `official`, `within_budget` or `carve_out`",
    )
    fps: float = Field(default=1.0, gt=0, description="labelled frames per second that are used")
    size: int | None = Field(
        default=None,
        ge=16,
        le=2048,
        description="pixels of the square input, 16 to 2048; null: what each backbone was trained with",
    )
    remap: str | None = Field(
        default=None, description="a file that merges classes of masks, or the name of one in the box"
    )
    shards: Path | None = Field(
        default=None, description="a folder of `trocar ingest` to read frames from; null: the data set's own files"
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        description="frames at a time through a frozen backbone; null: 64 on a CPU, 512 on a GPU, or as many as fit",
    )

    def dataset_options(self) -> DatasetOptions:
        """How the data set is opened."""
        return DatasetOptions(self.fps, self.phases, self.split, self.remap)


class EvaluateConfig(LabelledTask, WithPlugins):
    """What is compared, on which labels, and how."""

    backbone: list[str] = Field(
        default=[],
        description="what is compared: `PATH`, `NAME`, or `LABEL=PATH,PATH,...` for several seeds of one arm",
    )
    task: list[str] = Field(
        default=["phase"], min_length=1, description="names of tasks; `phase+tools` learns two together"
    )
    seeds: int = Field(default=3, ge=1, le=100, description="draws of every random-weights baseline, 1 to 100")
    repeats: int = Field(
        default=1, ge=1, le=100, description="runs of a protocol that trains something with a random start, 1 to 100"
    )
    budget: str | int | None = Field(
        default=None,
        description="labelled training cases: a number, a share such as `25%`, or a list published for the data set; "
        "null: all",
    )
    draws: int = Field(default=1, ge=1, le=100, description="draws of the budget, 1 to 100")
    baselines: list[str] = Field(
        default=["random", "raw pixels", "mean colour", "time", "majority"], description="what is added for comparison"
    )
    bootstrap: int = Field(
        default=1000, ge=0, le=100_000, description="draws of cases for the intervals, 0 to 100000; 0: no intervals"
    )
    device: str = Field(default="auto", description="auto, cpu or cuda")
    precision: Wanted = Field(
        default="auto", description="what networks compute in; auto: bfloat16 on a GPU that has it, else float32"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=256,
        description="processes that crop for a network that trains on a GPU, 0 to 256; null: what the machine has; "
        "nothing depends on it",
    )
    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1,
        description="processes that share the work, one per GPU; auto: as many as this machine has GPUs, with --slurm "
        "as many as the profile has tasks; no number depends on it",
    )
    out: Path | None = Field(
        default=None, description="the folder for results, predictions, masks and figures; null: nothing is written"
    )
    cache: Path | None = Field(
        default=None,
        description="the folder for decoded frames and features; null: OUT/cache, without `out` the user's cache",
    )
    figures: bool = Field(default=True, description="whether pictures of the predictions are drawn into OUT/figures")
    privacy: PrivacyConfig = Field(default=PrivacyConfig(), description="whether it is shown nevertheless")
    tracking: TrackingConfig = Field(
        default=TrackingConfig(uri="none"), description="where the results are logged besides OUT; by default nowhere"
    )


@dataclass(frozen=True)
class Computing:
    """`device` is `cpu` or `cuda`, `precision` what networks compute in there, but for a protocol that says its own;
    `batch` frames at a time through a frozen backbone, `workers` processes that crop (None: what fits).
    """

    device: str
    precision: Precision
    batch: int | None = None
    workers: int | None = None

    @staticmethod
    def of(config: EvaluateConfig) -> Computing:
        """Raises ConfigError for a device that isn't there, or doesn't have the precision."""
        device = choose_device(config.device)
        precision = resolved(config.precision, torch.device(device))
        return Computing(device, precision, config.batch, config.workers)

    def among(self, sharing: int) -> Computing:
        """With this one's part of the workers where so many ranks share the cores; all have what was asked for."""
        if sharing == 1 or self.workers is not None:
            return self
        return replace(self, workers=max(0, min(MOST, granted_cores() // sharing - 2)))

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
