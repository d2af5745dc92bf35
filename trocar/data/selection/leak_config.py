"""What `leak` in a composition says: which cases must stay out of a pool. `trocar.leakage` reads it, data does not."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from trocar.core.config import AsWritten, Config
from trocar.privacy.marks import NO_MARKS, Marks

Policy = Literal["exclude", "error", "allow"]
Suspects = Literal["exclude", "keep"]


class Guarded(Config):
    """A labelled data set that models will be scored on; the fields are those of `trocar evaluate`."""

    data: Path = Field(description="the folder of the labelled data")
    layout: str | None = Field(
        default=None, description="its layout, as `trocar evaluate` calls it; null: recognised from the folder"
    )
    split: str | None = Field(
        default=None,
        description="the published split whose test and validation cases are held out; null: the data set's own",
    )
    phases: tuple[AsWritten, ...] = Field(default=(), description="class names in order, for a data set with its own")
    private: Marks = Field(default=NO_MARKS, description="what of it must not be shown")


class LeakConfig(Config):
    """Which cases must stay out of the pool, and what to do with those found in it."""

    against: list[str | Guarded] = Field(
        default=[],
        description="what is held out: folders of labelled data (their test and validation cases, or all where no "
        "split is known), published data sets (`cholec80`, `cholec80/41-80`, `cholec80:40-40` for the test and "
        "validation cases of a published split), or text files with a line `data set/case` for each case",
    )
    policy: Policy = Field(
        default="exclude",
        description="what becomes of held-out cases in the pool: they leave it, are an error, or stay and are reported",
    )
    suspects: Suspects = Field(
        default="exclude",
        description="whether cases that only look like held-out cases leave the pool too; under `policy: allow` "
        "nothing does",
    )
