"""The report of a study: results.csv and results.parquet, one row per score."""

from __future__ import annotations

import io
import os
from pathlib import Path

from trocar.errors import ConfigError
from trocar.files import write_atomic
from trocar.study.config import StudyConfig
from trocar.study.results import Results
from trocar.study.store import Store


def write(study: StudyConfig, store: Store, out: Path) -> None:
    """Write the report of everything that is done to the folder `out`. Raises ConfigError while nothing is."""
    table = Results.load(study, store).table()
    if table.empty:
        raise ConfigError(f"study {study.name}: nothing has been scored yet; run it first")
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".results.parquet.{os.getpid()}"
    table.to_parquet(part, index=False)
    part.replace(out / "results.parquet")
    text = io.StringIO()
    table.to_csv(text, index=False)
    write_atomic(out / "results.csv", text.getvalue())
