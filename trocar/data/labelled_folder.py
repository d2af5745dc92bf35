"""Which labelled data set is meant: the keys by which every configuration names one."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trocar.core.config import AsWritten, Config
from trocar.privacy.marks import NO_MARKS, Marks


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
