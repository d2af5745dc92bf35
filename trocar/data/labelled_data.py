"""The keys by which every configuration names a labelled data set, and its splits however people spell them.

What `leak` in a composition says, too: which cases must stay out of a pool. `trocar.leakage` reads it, data does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from trocar.core.config import AsWritten, Config
from trocar.core.tables import Table, Texts
from trocar.errors import nearest
from trocar.privacy.private_data import NO_MARKS, Marks


class LabelledFolder(Config):
    """A folder of labelled data, and how it is read."""

    data: Path = Field(description="the folder of the labelled data")
    layout: str | None = Field(
        default=None, description="its layout, such as cholec80; null: recognised from the folder"
    )
    split: str | None = Field(
        default=None,
        description="the published split that says which cases train, validate and test; null: the data set's own",
    )
    phases: tuple[AsWritten, ...] = Field(default=(), description="class names in order, for a data set with its own")
    private: Marks = Field(
        default=NO_MARKS,
        description="what of it must not be shown, besides what DATA/private.yaml and the shards mark",
    )

    def data_alone(self) -> LabelledFolder:
        """The data set without what a subclass says of its use, and by its absolute path: equal for equal data sets."""
        return LabelledFolder(
            data=self.data.absolute(), layout=self.layout, split=self.split, phases=self.phases, private=self.private
        )


SPLITS = ("train", "val", "test")
_SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


def meant_split(tag: str) -> str | None:
    """The split that `tag` is another spelling of, such as `Train` and `validation`; None where it is none."""
    lower = tag.lower()
    meant = lower if lower in SPLITS else _SPELLINGS.get(lower)
    return None if meant == tag else meant


def check_tag(tag: str) -> None:
    """Raises ValueError for another spelling of a split: it would be a tag of its own, and its videos in no split."""
    meant = meant_split(tag)
    if meant is not None:
        raise ValueError(f"split {tag!r}: expected {', '.join(SPLITS)} (did you mean {meant!r}?)")


def split_tags(table: Table) -> Texts:
    """The split of every row of a videos.csv, '' where it has none. The column may hold tags beside it, separated by
    semicolons.

    Raises the table's error for a split that is spelt otherwise, for two splits, and for a row that has only other
    tags where another row has a split.
    """
    found: dict[str, str] = {}
    for text, index in table.first_rows("split").items():
        tags = [tag.strip() for tag in text.split(";") if tag.strip()]
        known = [tag for tag in tags if tag in SPLITS]
        if len(known) > 1:
            raise table.error(f"split {text!r}: a video is in one of {', '.join(SPLITS)}", index)
        try:
            for tag in tags:
                check_tag(tag)
        except ValueError as error:
            raise table.error(str(error), index) from None
        found[text] = known[0] if known else ""
    lost = next((text for text, split in found.items() if text and not split and any(found.values())), None)
    if lost is not None:
        what = f"split {lost!r}: expected {', '.join(SPLITS)}{nearest(lost, SPLITS)}, as in other rows"
        raise table.error(what, table.first_rows("split")[lost])
    split: Texts = np.array([found[text] for text in table.texts("split")], dtype=object)
    return split


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
