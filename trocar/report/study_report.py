"""The report of a study: one page that needs no network, and every score as a table beside it.

It begins with three sentences, each made from the numbers that it speaks of and saying no more than they do.
"""

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
from trocar.leakage.verdict import Verdict
from trocar.privacy.aliases import Aliases
from trocar.report.page import count, render_template, times, verb
from trocar.report.shown_frames import KnownCases
from trocar.report.study_analysis import DRAWS, LEVEL, Analysis, Compared, analyse
from trocar.report.study_arms import (
    KeptOut,
    TrainedArm,
    facts,
    kept_out,
    study_file,
    trained_arms,
)
from trocar.report.study_scores import (
    Ends,
    HeatCell,
    LeaderTable,
    LearningCurves,
    SourceTable,
    WorstVerdict,
    difference_scale,
    heat,
    judged,
    leader_table,
    learning_curves,
    permuted,
    scaling_figures,
    source_table,
)
from trocar.report.task_pictures import TaskPictures, task_pictures
from trocar.study.config import StudyConfig
from trocar.study.results import StudyResults
from trocar.study.stages import Store
from trocar.study.statistics.contrasts import Contrast
from trocar.study.statistics.crossed import CASES_ONLY, FEWEST_DRAWN
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


SHOWN = 3


def summary(results: StudyResults, analysis: Analysis, verdicts: Mapping[tuple[str, str], Verdict]) -> list[str]:
    """What was compared; what the declared comparisons show; what to beware of. `verdicts`: (task, arm) -> verdict."""
    return [_compared(results, analysis), _shown(results, analysis), _beware(results, analysis.compared, verdicts)]


def _compared(results: StudyResults, analysis: Analysis) -> str:
    arms = [arm for arm, kind in results.arms.items() if kind == "pretrained"]
    seeds = results.study.pretrain_seeds
    cases = sorted({one.arms[0].cases for one in analysis.compared})
    where = f"{min(cases)} to {max(cases)}" if len(cases) > 1 else str(cases[0])
    tasks = ", ".join(one.name for one in analysis.compared)
    text = (
        f"{count(len(arms), 'arm')} of equal {results.study.match}, pretrained {times(seeds)} each, and "
        f"{count(len(results.arms) - len(arms), 'baseline')} were scored on {tasks} with {where} test cases"
    )
    if results.missing:
        text += f"; {count(len(results.missing), 'stage')} of the study {verb(len(results.missing))} not done yet"
    return f"{text}."


def _shown(results: StudyResults, analysis: Analysis) -> str:
    contrasts = analysis.contrasts
    if not results.contrasts:
        return "No comparison was declared, so none was tested."
    if not contrasts:
        return f"None of the {count(len(results.contrasts), 'declared comparison')} could be tested yet."
    different = sorted((one for one in contrasts if one.different), key=lambda one: one.p_holm)
    weak = [one for one in contrasts if one.underpowered]
    rest = len(contrasts) - len(different) - len(weak)
    untested = f"; {len(analysis.untested)} more could not be tested yet" if analysis.untested else ""
    if rest == len(contrasts):
        return f"None of {count(rest, 'declared comparison')} is shown to differ{untested}."
    parts = []
    if different:
        parts.append(_different(different, analysis.compared))
    if rest:
        parts.append(f"{rest} {'is' if rest == 1 else 'are'} not shown to differ")
    if weak:
        sizes = " or ".join(str(n) for n in sorted({one.difference.cases for one in weak}))
        parts.append(f"{len(weak)} {verb(len(weak))} underpowered (n = {sizes}), which says nothing either way")
    return f"Of {count(len(contrasts), 'declared comparison')}, {'; '.join(parts)}{untested}."


def _different(different: Sequence[Contrast], compared: Sequence[Compared]) -> str:
    smaller = {one.name for one in compared if one.smaller_is_better}
    named = [_difference(one, one.task in smaller) for one in different[:SHOWN]]
    more = [f"{len(different) - SHOWN} more in the table"] if len(different) > SHOWN else []
    word = "differs" if len(different) == 1 else "differ"
    return f"{len(different)} {word} after Holm's correction ({'; '.join(named + more)})"


def _difference(contrast: Contrast, smaller_is_better: bool) -> str:
    first, second = contrast.a, contrast.b
    value, ends = contrast.difference.value, (contrast.difference.low, contrast.difference.high)
    if value < 0:
        first, second, value, ends = second, first, -value, (-ends[1], -ends[0])
    worse = ", an error measure, so worse," if smaller_is_better else ""
    models = " for these trained models" if contrast.difference.scope == CASES_ONLY else ""
    return (
        f"{first} scores {value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}] higher{worse} than {second} on "
        f"{contrast.task}{models}"
    )


def _beware(results: StudyResults, compared: Sequence[Compared], verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    parts = [_leaks(verdicts)]
    estimates = [estimate for one in compared for estimate in one.arms]
    if any(estimate.too_narrow for estimate in estimates):
        fewest = min(estimate.cases for estimate in estimates)
        parts.append(f"with as few as {fewest} test cases intervals of single arms are too narrow")
    trained = [estimate for estimate in estimates if results.arms[estimate.name] == "pretrained"]
    if any(estimate.scope == CASES_ONLY for estimate in trained):
        parts.append("with one pretraining seed intervals are over test cases only")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _leaks(verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    tainted = {key: verdict for key, verdict in verdicts.items() if verdict is not Verdict.CLEAN}
    if not tainted:
        return "by all leak verdicts no arm has seen a test case"
    named = [f"{arm} on {task}: {verdict.value}" for (task, arm), verdict in list(tainted.items())[:SHOWN]]
    more = [f"{len(tainted) - SHOWN} more"] if len(tainted) > SHOWN else []
    scores = count(len(tainted), "score")
    return f"{scores} {verb(len(tainted))} not known to be free of leaks ({'; '.join(named + more)})"
