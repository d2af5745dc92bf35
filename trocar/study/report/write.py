"""results.csv, results.parquet and index.html."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from trocar.core.files import write_atomic, writing
from trocar.errors import ConfigError
from trocar.privacy.marks import Withheld
from trocar.study.config import StudyConfig
from trocar.study.report.analysis import DRAWS, analyse
from trocar.study.report.known_cases import KnownCases
from trocar.study.report.page import render
from trocar.study.report.qualitative import pages
from trocar.study.results.results import StudyResults
from trocar.study.run.stage_store import Store


def write(
    study: StudyConfig,
    store: Store,
    out: Path,
    draws: int = DRAWS,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the report of everything that is done to the folder `out`; returns the page, which is written last.

    `draws`: how often the test cases are resampled; `say` gets a line for every step that takes long. Raises
    ConfigError while nothing is done.
    """
    results = StudyResults.load(study, store)
    table = results.table()
    if table.empty:
        raise ConfigError(f"study {study.name}: nothing has been scored yet; run it first")
    out.mkdir(parents=True, exist_ok=True)
    known = KnownCases.of_study(results)
    _write_tables(without(table, known.hidden), out)
    analysis = analyse(results, known, draws, say)
    say("pictures")
    page = out / "index.html"
    write_atomic(page, render(results, analysis, known, pages(results, analysis, known)))
    return page


def without(table: pd.DataFrame, hidden: Withheld) -> pd.DataFrame:
    """The table without the names, in every column of text."""
    shown: pd.DataFrame = table.copy()
    for name in table:
        if pd.api.types.is_string_dtype(table[name]):
            shown[name] = table[name].map(hidden.text)
    return shown


def _write_tables(table: pd.DataFrame, out: Path) -> None:
    with writing(out / "results.parquet") as file:
        table.to_parquet(file, index=False)
    text = io.StringIO()
    table.to_csv(text, index=False)
    write_atomic(out / "results.csv", text.getvalue())
