"""What decides how a video becomes frames."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trocar.data.ingest.shard_writer import SHARD_BYTES
from trocar.data.media.refusal import Limits

INGEST_VERSION = 4
"""Raised when the same video and settings give other frames, or a record says more of them: finished videos of another
version are done again.
"""


class IngestSettings(Limits):
    """Settings of one ingest; the limits decide what is rejected, all else decides the bytes of the frames.

    `fps` is in frames per second of video, `short_side` in pixels (None keeps the size; nothing is enlarged).
    """

    fps: float = Field(1.0, gt=0, le=240)
    short_side: int | None = Field(256, ge=16, le=8192)
    jpeg_quality: int = Field(90, ge=1, le=100)
    crop: Literal["auto", "none"] = "auto"
    shard_bytes: int = Field(SHARD_BYTES, ge=1 << 12)

    def identity(self) -> dict[str, object]:
        """The part that decides the bytes: a finished video with another one is ingested again."""
        return {"ingest_version": INGEST_VERSION, **self.model_dump(exclude=set(Limits.model_fields))}
