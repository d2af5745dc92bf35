"""The section `tracking` of a configuration."""

from __future__ import annotations

from pydantic import Field

from trocar.core.config import Config


class TrackingConfig(Config):
    """mlflow beside the local record."""

    uri: str = Field(
        default="sqlite", description="a tracking URI, `sqlite` for a database beside the run folder, or `none`"
    )
    experiment: str = Field(default="trocar", description="mlflow's experiment")
