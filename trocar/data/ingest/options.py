"""What an ingest is asked to do, and what it has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from trocar.core.config import Config
from trocar.data.catalog.writer import Rejected
from trocar.data.ingest.framing import IngestSettings
from trocar.data.ingest.tars.tar_samples import TarFields
from trocar.data.ingest.video import JobOutcome


class IngestOptions(Config):
    """What `trocar ingest` is asked to do."""

    sources: tuple[Path, ...] = Field(
        description="a video, a folder of videos, of frame folders or of pictures; several are ingested together"
    )
    out: Path = Field(description="the folder for shards and catalog")
    settings: IngestSettings = Field(
        default=IngestSettings(), description="what the stored frames are like, and what is rejected"
    )
    metadata: Path | None = Field(
        default=None, description="videos.csv, what is known of each video; null: the file in or beside a source"
    )
    source: str | None = Field(default=None, description="data set of all these videos; null: the name of the folder")
    prefix: str = Field(default="", description="text put before each video's name")
    case_regex: str | None = Field(
        default=None,
        description="regular expression with the groups `case` and `part`, on a file's name and, of stills, on the "
        "path; null: a case per file",
    )
    stills: bool = Field(default=False, description="all pictures are single ones, of no time")
    frames: str | None = Field(
        default=None,
        description="where the number stands in the names of a video's pictures, such as `{number:06d}.jpg`; null: "
        "sources are no frame folders",
    )
    frames_fps: float | None = Field(None, gt=0, description="frame numbers per second; null: videos.csv says it")
    first_number: int | None = Field(default=None, description="the frame number at time 0; null: videos.csv says it")
    masks: Path | None = Field(default=None, description="YAML or CSV file of boxes to black out, by source")
    exclude: Path | None = Field(
        default=None, description="CSV file of what is left out: video, start and end in seconds"
    )
    pseudonymize: Path | None = Field(
        default=None,
        description="key file for hashes in place of file names and case ids, made if absent; null: names stay",
    )
    in_place: bool = Field(default=False, description="sources are tars of others, whose pictures stay where they lie")
    unfit: Literal["transcode", "leave-out"] = Field(
        default="transcode",
        description="what becomes of pictures in tars that a run cannot read where they lie (progressive, turned, PNG)",
    )
    wds: TarFields = Field(default=TarFields(), description="what keys and JSON of tars say of a frame")
    workers: int = Field(1, ge=1, description="processes")


@dataclass
class IngestSummary:
    """Counts of this run and of the catalog after it; `rejected` are the files of this run's sources, `damaged` counts
    damaged frames of those of its videos that were accepted, and `notes` the videos of which each note is true.

    `videos` of the catalog count `stills` too, as it does; `ingested` and `ingested_stills` are apart. `alike` is what
    is to be said of stills that look like each other, `text` of text burned into videos; None for nothing.
    Of tars of others `in_place` pictures are read where they lie, `transcoded` and `left_out` are counts by reason.
    """

    fingerprint: str = ""
    videos: int = 0
    frames: int = 0
    stills: int = 0
    cases: int = 0
    ingested: int = 0
    ingested_stills: int = 0
    finished_before: int = 0
    elsewhere: int = 0
    seconds: float = 0.0
    rejected: list[Rejected] = field(default_factory=list)
    alike: str | None = None
    text: str | None = None
    damaged: list[int] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    in_place: int = 0
    transcoded: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def remark(self, damaged: int, notes: tuple[str, ...]) -> None:
        """Count what is to be said of one finished video."""
        self.damaged += [damaged] if damaged else []
        self.notes.update(notes)


Progress = Callable[[int, int, JobOutcome | None], None]
