"""Sections on how the arms were trained and on what everything ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from trocar.core.progress import duration
from trocar.leakage.guard import KEPT
from trocar.leakage.verdict import fold
from trocar.privacy.marks import tree_without_folders
from trocar.study.plan.pretrainings import served
from trocar.study.report.arms import source_fields, sources_of
from trocar.study.report.html import cell, folded, head, section, table
from trocar.study.report.known_cases import KnownCases
from trocar.study.results.results import Pretrained, StudyResults


def arms(results: StudyResults, known: KnownCases) -> str:
    """Steps, samples and epochs of every arm, and cells of the design that are not there."""
    matched = results.study.match
    lead = f"Arms have equal {matched}; the other numbers follow from that. Ranges are over pretraining seeds."
    rows = [
        _arm(arm, tasks, runs, [sources_of(run, known, source_fields(results)) for run in runs])
        for (arm, tasks), runs in served(results.pretrained, len(results.lock["tasks"])).items()
    ]
    titles = ["Arm", "Seeds done", "Cases by source", "Frames", "Steps", "Samples", "Epochs", "Time per seed"]
    body = table(head(titles, numbers=(1, 3, 4, 5, 6, 7)), rows)
    absent = "".join(f"<tr>{cell(arm)}{cell(why, 'wide')}</tr>" for arm, why in results.left_out.items())
    left = f"<h3>Not in the study</h3>{table(head(['Cell', 'Why']), [absent])}" if absent else ""
    return section("Arms", lead, body, _kept_out(results, known), left, _cases(results, known))


def _kept_out(results: StudyResults, known: KnownCases) -> str:
    """Cases of the pool that the leak guard found to be held-out ones, and what became of them."""
    found = {(leak["pool"], leak["test"]): leak for run in results.pretrained for leak in run.leaks}
    names = known.named([*sorted(pool for pool, _ in found), *(leak["test"] for leak in found.values())])
    rows, listed = [], []
    of = " of the pretrainings that these tasks are scored with" if results.study.leave_out == "task" else ""
    for line in fold([leak for _, leak in sorted(found.items())]):
        seen = all(map(known.may_show, (*line.pools, *line.tests)))
        done = line.became if line.became == KEPT else f"{line.became} before sampling{of}"
        why = line.how if seen else "the reason names private cases"
        pairs = [f"{names[pool]}: {names[test]}" for pool, test in zip(line.pools, line.tests, strict=True)]
        one = len(pairs) == 1
        who = [names[line.pools[0]], names[line.tests[0]]] if one else [line.pool, line.test]
        cells = [*(cell(name, "wide") for name in who), cell(", ".join(line.tasks), "wrap")]
        rows.append(f"<tr>{''.join(cells)}{cell(why, 'wide')}{cell(done, 'wrap')}</tr>")
        listed += [] if one else pairs
    titles = ["Case of the pool", "Held-out case", "Tasks", "How it was found", "Became"]
    more = folded(f"These {len(listed)} pairs", listed)
    return f"<h3>Held-out cases in the pool</h3>{table(head(titles), rows)}{more}" if rows else ""


def _arm(arm: str, tasks: str, runs: Sequence[Pretrained], drawn: Sequence[Mapping[str, int]]) -> str:
    ended = [run.done for run in runs if run.done is not None]
    hours = [done["seconds"] / 3600 for done in ended]
    names = dict.fromkeys(name for seed in drawn for name in seed)
    sources = ", ".join(f"{name} {_range(seed.get(name, 0) for seed in drawn)}" for name in names)
    epochs = "; ".join(
        (f"{source} " if len(runs[0].epochs) > 1 else "") + _range((run.epochs.get(source, 0.0) for run in runs), 1)
        for source in runs[0].epochs
    )
    cells = [
        f"<th scope=row>{escape(arm)}{f'<small>for {escape(tasks)}</small>' if tasks else ''}</th>",
        cell(f"{len(ended)} of {len(runs)}", "number"),
        cell(sources),
        *(cell(_range(float(getattr(run, what)) for run in runs), "number") for what in ("frames", "steps", "samples")),
        cell(epochs, "number"),
        cell(duration(sum(hours) / len(hours)) if hours else "–", "number"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _range(values: Iterable[float], digits: int = 0) -> str:
    listed = [f"{value:,.{digits}f}" for value in sorted(values)]
    return listed[0] if listed[0] == listed[-1] else f"{listed[0]} to {listed[-1]}"


def _cases(results: StudyResults, known: KnownCases) -> str:
    """Which cases every seed drew, folded away."""
    names = known.named(case for run in results.pretrained for case in run.cases)
    rows = [
        f"<tr>{cell(run.arm)}{cell(str(run.seed), 'number')}"
        f"{cell(', '.join(names[case] for case in run.cases), 'wide')}{cell('; '.join(run.notes), 'wide')}</tr>"
        for run in results.pretrained
    ]
    body = table(head(["Arm", "Seed", "Cases", "Notes"], numbers=(1,)), rows)
    return f"<details><summary>The cases of every seed</summary>{body}</details>"


def how(results: StudyResults, known: KnownCases) -> str:
    """Time, machines, versions, code, fingerprints, and the study file."""
    facts = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in _facts(results)
    )
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in _notes(known))
    lead = "What it takes to run it again, and what it cost."
    body = f'<div class=scroll><table class="facts"><tbody>{facts}</tbody></table></div>'
    return section("How it was run", lead, body, _file(results, known), said)


def _file(results: StudyResults, known: KnownCases) -> str:
    """The study file, unless it may name hospitals of private cases."""
    if known.private or known.unread or known.hidden:
        return ""
    tree = tree_without_folders(results.study.model_dump(mode="json"))
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    return f"<details><summary>The study file</summary><pre>{escape(text)}</pre></details>"


def _notes(known: KnownCases) -> Iterator[str]:
    for why in known.unread.values():
        yield f"No frames, cases or study file are shown, because a catalog could not be read: {why}"
    if known.private or known.hidden:
        yield "The study file is left out, because it may name hospitals of private cases."


def _facts(results: StudyResults) -> Iterator[tuple[str, str]]:
    lock = results.lock
    done = [found for name in lock["stages"] if (found := results.store.done(name)) is not None]
    yield "stages", f"{len(done)} of {len(lock['stages'])} done (one of them is this report)"
    for device, seconds in _seconds(done).items():
        yield f"time on {device}", f"{duration(seconds / 3600)}, all attempts"
    yield "machines", _distinct(one.get("host") for one in done)
    yield "code", _distinct(one["git"] or "not from a git checkout" for one in done if "git" in one)
    for name in dict.fromkeys(name for one in done for name in one["versions"]):
        yield name, _distinct(one["versions"].get(name) for one in done)
    yield "stage versions", ", ".join(f"{kind} {version}" for kind, version in lock["versions"].items())
    yield "store", str(results.store.root.absolute())
    yield "catalog", f"{results.study.catalog}, fingerprint {lock['catalog']}"
    for name, task in lock["tasks"].items():
        tested = sum(len(cases) for cases in task["test_cases"].values())
        yield (
            f"task {name}",
            f"{task['layout']}, {task['frames']:,} test frames of {tested} cases, {task['scheme']}, "
            f"fingerprint {task['data']}",
        )
    for source, found in lock["weights"].items():
        yield f"weights {source}", ", ".join(f"{key} {value}" for key, value in found.items() if value is not None)


def _seconds(done: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Device -> seconds of stages that ran on it; the report itself is no part of the cost."""
    found: dict[str, float] = {}
    for one in done:
        if one["kind"] != "report":
            device = f"{one.get('device') or 'an unrecorded device'}, {one['kind']}"
            found[device] = found.get(device, 0.0) + float(one["seconds"])
    return found


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value)) or "not recorded"
