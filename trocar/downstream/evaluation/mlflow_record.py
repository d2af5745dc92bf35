"""An evaluation in mlflow: one run with its configuration and files, and below it one for every row of its tables.

The folder of the evaluation is the record, as that of a pretraining: mlflow may be away, and `trocar track sync OUT`
brings it up to date later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trocar.core.messages import Say
from trocar.downstream.evaluation.results import EvaluationResults, ResultRow
from trocar.downstream.evaluation.run_files import file_stem
from trocar.errors import TrocarError
from trocar.privacy.aliases import withhold
from trocar.runs.mlflow_follower import may_follow
from trocar.runs.mlflow_server import PARTS, describe, resolve_uri
from trocar.runs.run_folder import Run, read_config, read_metrics


def track(
    results: EvaluationResults,
    out: Path,
    settings: Mapping[str, Any],
    uri: str,
    experiment: str,
    say: Say,
) -> None:
    """Record the results as runs below `out`, and log them in `experiment` of the tracking URI, or `sqlite` for the
    file beside `out`. `settings` are the configuration, as JSON values.

    Trouble with mlflow is said and stops nothing.
    """
    record(results, out, settings)
    server = None if uri == "sqlite" else uri
    if not may_follow(resolve_uri(out, server), os.environ):
        say(f"mlflow is not written to from SLURM jobs without a server: run `trocar track sync {out}`")
        return
    say("mlflow")
    try:
        from trocar.runs.mlflow_sync import sync

        sync(out, server, experiment)
    except TrocarError as error:
        say(f"mlflow: {error}")


def record(results: EvaluationResults, out: Path, settings: Mapping[str, Any]) -> None:
    """Make `out` a run folder, and one in it for every row of the tables; what has not changed is left as it is.

    Rows that an earlier evaluation had and this one has not stay: they were measured.
    """
    _log(out, settings, {"rows": float(len(results.rows))})
    describe(out, out.name, {"kind": "evaluation", "data": str(results.data["layout"])})
    for row in results.rows:
        about = results.tasks[row.task]
        folder = out / PARTS / file_stem(*map(results.hidden.text, (row.task, row.protocol, row.arm)))
        _log(folder, {}, _values(row, str(about["headline"])))
        describe(folder, f"{row.arm}: {row.task}, {row.protocol}", _labels(row, about, results.data))
        withhold(folder, results.hidden.names, results.hidden.cases, results.hidden.table)


def _labels(row: ResultRow, about: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
    """What rows are grouped and filtered by."""
    return {
        "arm": row.arm,
        "kind": row.kind,
        "task": row.task,
        "protocol": row.protocol,
        "budget": str(about["budget"] or "all labels"),
        "seeds": str(len(row.members)),
        "data": str(data["layout"]),
        "leak": str(row.leak.get("verdict", "")),
    }


def _values(row: ResultRow, headline: str) -> dict[str, float]:
    """The mean of every metric over the runs of a row, and the interval of its headline."""
    values = {name.replace("@", "_"): row.mean(name) for name in row.values}
    if row.interval is not None:
        values |= {
            f"{headline.replace('@', '_')}_{end}": x for end, x in zip(("low", "high"), row.interval, strict=True)
        }
    return values


def _log(folder: Path, settings: Mapping[str, Any], values: Mapping[str, float]) -> None:
    """One step a result: mlflow keeps the first value of a step, so that what has changed needs another one."""
    known = read_metrics(folder)[-1:] if (folder / "run.json").is_file() else []
    if known and _same(known[0], values) and (not settings or read_config(folder) == dict(settings)):
        return
    with Run.open(folder, settings) as run:
        run.log(run.attempt - 1, values)


def _same(known: Mapping[str, Any], values: Mapping[str, float]) -> bool:
    found = {name: value for name, value in known.items() if name != "step"}
    return repr(sorted(found.items())) == repr(sorted((name, float(value)) for name, value in values.items()))
