"""The configuration of one evaluation; the flags of `trocar evaluate` have the same names."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trocar.config import Config


class EvaluateConfig(Config):
    """What is compared, on which labels, and how.

    `backbone`: `PATH`, `NAME`, or `LABEL=PATH,PATH,...` for several seeds of one arm. `seeds`: draws of every
    random-weights baseline. `size`: pixels of the square input (None: what each backbone was trained with).
    `fps`: labelled frames per second used. `folds`: auto, split, leave-one-case-out or a number of grouped
    folds. `split`: a published split list (Cholec80: 40-40, 32-8-40, 40-8-32; CholecT50: rdv). `phases`:
    class names in order, for a data set with its own. `baselines`: the arms added for comparison.
    `bootstrap`: draws of cases for the interval, 0 for none.
    """

    backbone: list[str] = []
    data: Path
    layout: str | None = None
    task: list[str] = Field(default=["phase"], min_length=1)
    protocol: list[str] = Field(default=["linear"], min_length=1)
    seeds: int = Field(default=3, ge=1, le=100)
    size: int | None = Field(default=None, ge=16, le=2048)
    fps: float = Field(default=1.0, gt=0)
    folds: str | int = "auto"
    split: str | None = None
    phases: list[str] = []
    baselines: list[str] = ["random", "raw pixels", "mean colour", "time", "majority"]
    bootstrap: int = Field(default=1000, ge=0, le=100_000)
    batch: int = Field(default=64, ge=1)
    device: str = "auto"
    out: Path | None = None
    cache: Path | None = None
