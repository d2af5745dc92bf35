"""What `leak` in a composition says: which cases must stay out of a pool. `trocar.leakage` reads it, data does not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trocar.core.config import Config
from trocar.data.labelled_data import LabelledFolder

Policy = Literal["exclude", "error", "allow"]
Suspects = Literal["exclude", "keep"]


class LeakConfig(Config):
    """Which cases must stay out of the pool, and what to do with those found in it."""

    against: list[str | LabelledFolder] = Field(
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
