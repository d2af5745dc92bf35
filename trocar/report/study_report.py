"""The report of a study: one page that needs no network, and every score as a table beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.core.files import write_atomic, writing
from trocar.core.messages import Say
from trocar.errors import ConfigError
from trocar.privacy.aliases import Aliases
from trocar.report.known_cases import KnownCases
from trocar.report.study_analysis import DRAWS, LEVEL, Analysis, Compared, analyse
from trocar.report.study_methods import (
    KeptOut,
    TrainedArm,
    facts,
    kept_out,
    study_file,
    trained_arms,
)
from trocar.report.study_scores import Ends, HeatCell, LeaderTable, difference_scale, heat, leader_table, permuted
from trocar.report.study_sources import (
    LearningCurves,
    SourceTable,
    learning_curves,
    scaling_figures,
    source_table,
)
from trocar.report.study_summary import summary
from trocar.report.study_verdicts import WorstVerdict, judged
from trocar.report.task_pictures import TaskPictures, task_pictures
from trocar.report.templating import render_template
from trocar.study.config import StudyConfig
from trocar.study.results import StudyResults
from trocar.study.stage_store import Store
from trocar.study.statistics.crossed import FEWEST_DRAWN
from trocar.study.statistics.scaling import Scaling


@dataclass(frozen=True)
class StudyPage:
    """What study.html.j2 shows. What is empty has no section, unless the section says that there is nothing."""

    title: str
    results: StudyResults
    analysis: Analysis
    known: KnownCases
    sentences: Sequence[str]
    leaders: Sequence[LeaderTable]
    verdicts: Mapping[tuple[str, str], WorstVerdict]
    level: float
    permuted: str
    difference_scale: Ends
    fewest_drawn: int
    heat: Mapping[str, Sequence[HeatCell | None]]
    trained_arms: Sequence[TrainedArm]
    kept_out: Sequence[KeptOut]
    kept_out_pairs: Sequence[str]
    case_names: Mapping[str, str]
    learning_curves: Sequence[LearningCurves]
    sources: Sequence[SourceTable]
    scaling: Sequence[tuple[Compared, Scaling, str]]
    tasks: Sequence[TaskPictures]
    facts: Sequence[tuple[str, str]]
    study_file: Any


def page_of(results: StudyResults, analysis: Analysis, known: KnownCases, tasks: Sequence[TaskPictures]) -> StudyPage:
    """Everything on the page, computed."""
    compared = analysis.compared
    verdicts = judged(results, known, (score for one in compared for score in one.scores))
    lines, pairs = kept_out(results, known)
    return StudyPage(
        title=f"Study {results.study.name}",
        results=results,
        analysis=analysis,
        known=known,
        sentences=summary(results, analysis, {key: one.verdict for key, one in verdicts.items()}),
        leaders=[leader_table(results, one, verdicts) for one in compared],
        verdicts=verdicts,
        level=LEVEL,
        permuted=permuted(analysis.contrasts),
        difference_scale=difference_scale(analysis.contrasts),
        fewest_drawn=FEWEST_DRAWN,
        heat=heat(results, compared),
        trained_arms=trained_arms(results, known),
        kept_out=lines,
        kept_out_pairs=pairs,
        case_names=known.named(case for run in results.pretrained for case in run.cases),
        learning_curves=[learning_curves(one) for one in compared if one.curves],
        sources=[source_table(one) for one in compared],
        scaling=scaling_figures(compared),
        tasks=tasks,
        facts=list(facts(results)),
        study_file=study_file(results, known),
    )


def write(
    study: StudyConfig,
    store: Store,
    out: Path,
    draws: int = DRAWS,
    say: Say = lambda _: None,
) -> Path:
    """Write index.html, results.csv and results.parquet of everything that is done to the folder `out`; returns the
    page, which is written last.

    `draws`: how often the test cases are resampled; `say` gets a line for every step that takes long. Raises
    ConfigError while nothing is done.
    """
    results = StudyResults.load(study, store)
    table = results.table()
    if table.empty:
        raise ConfigError(f"study {study.name}: nothing has been scored yet; run it first")
    out.mkdir(parents=True, exist_ok=True)
    known = KnownCases.of_study(results)
    _write_tables(_without(table, known.hidden), out)
    analysis = analyse(results, known, draws, say)
    say("pictures")
    page = page_of(results, analysis, known, task_pictures(results, analysis, known))
    path = out / "index.html"
    write_atomic(path, render_template("study.html.j2", page, known.hidden))
    return path


def _without(table: pd.DataFrame, hidden: Aliases) -> pd.DataFrame:
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
