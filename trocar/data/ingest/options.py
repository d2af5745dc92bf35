"""What an ingest is asked to do, and what it has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from trocar.core.config import Config
from trocar.data.catalog.writer import Rejected
from trocar.data.ingest.images.framing import IngestSettings
from trocar.data.ingest.video import JobOutcome


class IngestOptions(Config):
    """What `trocar ingest` is asked to do; see its command line help for each."""

    sources: tuple[Path, ...]
    out: Path
    settings: IngestSettings = IngestSettings()
    metadata: Path | None = None
    source: str | None = None
    prefix: str = ""
    case_regex: str | None = None
    stills: bool = False
    frames: str | None = None
    frames_fps: float | None = Field(None, gt=0)
    first_number: int | None = None
    masks: Path | None = None
    exclude: Path | None = None
    pseudonymize: Path | None = None
    workers: int = Field(1, ge=1)


@dataclass
class IngestSummary:
    """Counts of this run and of the catalog after it; `rejected` are the files of this run's sources, `damaged` counts
    damaged frames of those of its videos that were accepted, and `notes` the videos of which each note is true.

    `videos` of the catalog count `stills` too, as it does; `ingested` and `ingested_stills` are apart. `alike` is what
    is to be said of stills that look like each other, `text` of text burned into videos; None for nothing.
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

    def remark(self, damaged: int, notes: tuple[str, ...]) -> None:
        """Count what is to be said of one finished video."""
        self.damaged += [damaged] if damaged else []
        self.notes.update(notes)


Say = Callable[[str], None]
Progress = Callable[[int, int, JobOutcome | None], None]
