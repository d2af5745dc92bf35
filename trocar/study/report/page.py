"""The page: sections in order, one file, nothing fetched from anywhere.

results.csv, results.parquet and index.html.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from trocar import __version__
from trocar.core.files import write_atomic, writing
from trocar.errors import ConfigError
from trocar.privacy.marks import Withheld
from trocar.report.page import document
from trocar.report.sections import short
from trocar.study.config import StudyConfig
from trocar.study.report import how, scores, sources
from trocar.study.report.analysis import DRAWS, Analysis, analyse
from trocar.study.report.html import section
from trocar.study.report.known_cases import KnownCases
from trocar.study.report.qualitative import pages
from trocar.study.report.summary import count, summary
from trocar.study.report.verdicts import judged
from trocar.study.results.results import StudyResults
from trocar.study.run.stage_store import Store


def render(results: StudyResults, analysis: Analysis, known: KnownCases, qualitative: Sequence[str]) -> str:
    """The whole report as HTML; `qualitative` are the finished pages of the tasks."""
    verdicts = judged(results, known, (score for one in analysis.compared for score in one.scores))
    words = {key: one.verdict for key, one in verdicts.items()}
    parts = [
        _header(results, known),
        short(summary(results, analysis, words)),
        scores.leaders(results, analysis, verdicts),
        scores.comparisons(results, analysis),
        scores.ranks(analysis.ranking),
        scores.heat(results, analysis.compared),
        how.arms(results, known),
        sources.labels(analysis.compared),
        sources.source_values(analysis),
        sources.scales(analysis),
        *qualitative,
        how.how(results, known),
        section("Files", "Every score is one row of results.csv and results.parquet, beside this page."),
    ]
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    title = known.hidden.text(f"Study {results.study.name}")
    return document(title, [known.hidden.html(part) for part in parts], style)


def _header(results: StudyResults, known: KnownCases) -> str:
    name, missing = results.study.name, len(results.missing)
    status, look = (f"{count(missing, 'stage')} missing", "running") if missing else ("complete", "finished")
    trained = sum(kind == "pretrained" for kind in results.arms.values())
    counts = f"{count(trained, 'arm')}  ·  {count(len(results.scores), 'score')}"
    facts = f"{counts}  ·  match: {results.study.match}  ·  Trocar {__version__}"
    warning = ""
    if missing:
        text = "The study is not complete: numbers, corrections and ranks will change with what is missing."
        warning = f'<p class="warning">{escape(text)}</p>'
    if known.shares:
        text = "This page shows names and frames of private cases. Share it as you would share them."
        warning += f'<p class="warning">{escape(text)}</p>'
    return (
        f'<header><h1>{escape(f"Study {name}")} <span class="status {look}">{escape(status)}</span></h1>'
        f'<p class="facts">{escape(facts)}</p>{warning}</header>'
    )


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
