"""The study in three sentences, each made from the numbers it speaks of and saying no more than they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trocar.leakage.verdict import Verdict
from trocar.report.study_analysis import Analysis, Compared
from trocar.report.words import count, times, verb
from trocar.study.results import StudyResults
from trocar.study.statistics.contrasts import Contrast
from trocar.study.statistics.crossed import CASES_ONLY

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
