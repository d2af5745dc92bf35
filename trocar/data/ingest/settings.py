"""What decides how a video becomes frames, and the error for one that cannot."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trocar.config import Config
from trocar.data.ingest.shards import SHARD_BYTES

INGEST_VERSION = 3
"""Raised when the same video and settings give other frames: finished videos of another version are done
again.
"""


class IngestSettings(Config):
    """Settings of one ingest; `limits` decide what is rejected, all else decides the bytes of the frames.

    `fps` is in frames per second of video, `short_side` in pixels (None keeps the size; nothing is enlarged),
    `max_pixels` per frame, `max_hours` per video, `max_damaged` in damaged or missing frames per video.
    """

    fps: float = Field(1.0, gt=0, le=240)
    short_side: int | None = Field(256, ge=16, le=8192)
    jpeg_quality: int = Field(90, ge=1, le=100)
    crop: Literal["auto", "none"] = "auto"
    shard_bytes: int = Field(SHARD_BYTES, ge=1 << 12)
    max_pixels: int = Field(36_000_000, ge=1, le=178_956_970)  # Pillow opens none beyond
    max_hours: float = Field(24.0, gt=0)
    max_damaged: int = Field(0, ge=0)

    def identity(self) -> dict[str, object]:
        """The part that decides the bytes: a finished video with another one is ingested again."""
        limits = {"max_pixels", "max_hours", "max_damaged"}
        return {"ingest_version": INGEST_VERSION, **self.model_dump(exclude=limits)}


class RejectError(Exception):
    """This video or image stays out: `reason` is one of a few fixed phrases, `detail` says what was found.

    `quoted` is what the file itself says, which a pseudonymised catalog must not repeat.
    """

    def __init__(self, reason: str, detail: str, quoted: str = "") -> None:
        super().__init__(reason, f"{detail}: {quoted!r}" if quoted else detail)
        self.reason = reason
        self.plain = detail

    @property
    def detail(self) -> str:
        """All that was found, with the quotation."""
        return str(self.args[1])
