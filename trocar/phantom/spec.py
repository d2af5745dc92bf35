"""What a phantom consists of: the parameters a user sets, the label spaces, and the plan of a case."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from trocar.core.config import Config

# Raised whenever one pixel or one label of any video changes; numbers measured on different versions never compare.
GENERATOR_VERSION = 2

PHASES = (
    "Preparation",
    "PedicleDissection",
    "ClippingCutting",
    "OrganDissection",
    "SpecimenPackaging",
    "CleaningCoagulation",
)
PREPARATION, PEDICLE, CLIPPING, DISSECTION, PACKAGING, CLEANING = range(len(PHASES))

# Names and order of Cholec80's tool annotation files.
TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")
GRASPER, BIPOLAR, HOOK, SCISSORS, CLIPPER, IRRIGATOR, BAG = range(len(TOOLS))

CLASSES = (
    "background",
    "solid_organ",
    "target_organ",
    "fat_connective",
    "duct_vessel",
    "instrument",
    "specimen_bag",
    "blood",
)
(
    BACKGROUND,
    SOLID_ORGAN,
    TARGET_ORGAN,
    FAT_CONNECTIVE,
    DUCT_VESSEL,
    INSTRUMENT,
    SPECIMEN_BAG,
    BLOOD,
) = range(len(CLASSES))

HOSPITALS = ("north", "south")
PROCEDURES = ("cholecystectomy", "sleeve_gastrectomy", "hysterectomy")

CVS_INTERVAL_S = 5


class PhantomSpec(Config):
    """Parameters of a phantom. A video depends on all of them but `cases`: more cases never change earlier ones."""

    cases: int = Field(
        default=20,
        ge=1,
        le=9999,
        description="operations, 1 to 9999; every fifth is recorded in two files, so there are more videos than cases",
    )
    minutes: float = Field(
        default=2.0,
        gt=0,
        le=240,
        description="mean length of an operation in minutes, 0.1 to 240; each is 0.8 to 1.2 times as long",
    )
    size: tuple[int, int] = Field(
        default=(320, 240), description="width and height in pixels, even numbers from 64 to 1920"
    )
    fps: int = Field(default=5, ge=1, le=60, description="frames per second, 1 to 60")
    seed: int = Field(default=0, ge=0, description="seed of everything in it")

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, value: Any) -> Any:
        match = re.fullmatch(r"(\d+)\s*x\s*(\d+)", value) if isinstance(value, str) else None
        return (int(match[1]), int(match[2])) if match else value

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 64 or side > 1920 or side % 2 for side in value):
            raise ValueError("width and height must be even numbers from 64 to 1920, such as 320x240")
        return value

    @field_validator("minutes")
    @classmethod
    def _check_minutes(cls, value: float) -> float:
        if value < 0.1:
            raise ValueError("an operation needs at least 0.1 minutes to hold its phases")
        return value


class CasePlan(Config):
    """One operation: where it took place, what was done, how it was recorded."""

    index: int = Field(description="number of the operation, from 0")
    hospital: Literal["north", "south"] = Field(description="where it took place")
    procedure: Literal["cholecystectomy", "sleeve_gastrectomy", "hysterectomy"] = Field(description="what was done")
    robotic: bool = Field(description="whether a robot was used")
    split: Literal["train", "val", "test"] = Field(description="the part of the data set that it belongs to")
    frames: int = Field(description="native frames of the whole operation")
    cut: int | None = Field(description="first frame of the second file; null: the operation is one file")

    @property
    def case_id(self) -> str:
        """Its id in the labels, such as case01."""
        return f"case{self.index + 1:02d}"

    @property
    def parts(self) -> list[tuple[str, int, int]]:
        """(file stem, first frame, end frame) per file, in time order."""
        stem = f"video{self.index + 1:02d}"
        if self.cut is None:
            return [(stem, 0, self.frames)]
        return [(f"{stem}_1", 0, self.cut), (f"{stem}_2", self.cut, self.frames)]
