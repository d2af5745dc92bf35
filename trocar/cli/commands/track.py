"""`trocar track`: bring mlflow up to date with a run, or look at its last metrics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trocar.errors import ConfigError

WHOLE = 1e15


def register(subparsers: Any) -> None:
    """Declare `trocar track {sync,show}`."""
    parser = subparsers.add_parser("track", help="bring mlflow up to a run's record, or show its last metrics")
    actions = parser.add_subparsers(dest="action", metavar="{sync,show}", required=True)

    sync = actions.add_parser("sync", help="log to mlflow what it lacks of the run; doing it twice logs nothing twice")
    sync.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder, or STORE/studies/NAME of a study")
    sync.add_argument(
        "--uri",
        help="default: TROCAR_TRACKING_URI, else MLFLOW_TRACKING_URI, else mlflow.db beside the run folder",
    )
    sync.add_argument("--experiment", default="trocar", help="mlflow experiment (default: %(default)s)")
    sync.add_argument("--follow", action="store_true", help="go on until the run has ended")
    sync.add_argument("--parent", type=int, metavar="PID", help="with --follow: end with this process, too")
    sync.set_defaults(run=run_sync, continues=True)

    show = actions.add_parser("show", help="the last metrics of the run as a table")
    show.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder")
    show.add_argument("--last", type=_positive, default=10, metavar="N", help="rows to show (default: %(default)s)")
    show.set_defaults(run=run_show)


def run_sync(args: argparse.Namespace) -> int:
    """Sync once, or follow the run."""
    from trocar.privacy.redaction import redact
    from trocar.runs import mlflow_follower, mlflow_server
    from trocar.runs import mlflow_sync as mlflow_sync

    if (args.run_folder / "study.lock").is_file():
        return _sync_study(args)
    if args.parent is not None and not args.follow:
        raise ConfigError("--parent only means something with --follow")
    if args.follow:
        parent = args.parent if args.parent is not None else mlflow_follower.writer_of(args.run_folder)
        return 0 if mlflow_follower.follow(args.run_folder, parent, args.uri, args.experiment) else 1
    result = mlflow_sync.sync(args.run_folder, args.uri, args.experiment)
    where = redact(mlflow_server.resolve_uri(args.run_folder, args.uri))
    print(f"{where}: mlflow run {result.mlflow_run_id} is {result.status}, {result.new_values} new values")
    return 0


def _sync_study(args: argparse.Namespace) -> int:
    from trocar.study.stages import Store
    from trocar.study.study_lock import require_lock
    from trocar.study.whole_study import sync_study

    folder = args.run_folder.absolute()
    store = Store(folder.parents[1])
    done = sync_study(require_lock(store, folder.name), store, print, args.uri)
    if done:
        print(f"mlflow has all finished stages of study {folder.name}")
    return 0 if done else 1


def run_show(args: argparse.Namespace) -> int:
    """Print who the run is and its last rows."""
    from trocar.core.progress import print_whole
    from trocar.runs.run_folder import read_metrics, read_record, run_status

    record = read_record(args.run_folder)
    rows = read_metrics(args.run_folder)
    print(f"{args.run_folder}: {run_status(record)}, attempt {record.get('attempt', 0)}, {len(rows)} steps logged")
    if rows:
        print_whole(_table(rows[-args.last :]), _turned(rows[-args.last :]))
    return 0


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A line for every step."""
    from rich.markup import escape
    from rich.table import Table

    names = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    table = Table()
    for name in ("step", *names):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["step"]), *(_number(row, name) for name in names))
    return table


def _turned(rows: Sequence[Mapping[str, Any]], shown: int = 5) -> Any:
    """A line for every number, and a column for each of the last few steps."""
    from rich.markup import escape
    from rich.table import Table

    names = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    table = Table("step", *(str(row["step"]) for row in rows[-shown:]))
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name in names:
        table.add_row(escape(name), *(_number(row, name) for row in rows[-shown:]))
    return table


def _number(row: Mapping[str, Any], name: str) -> str:
    """Whole numbers with all their digits, others with five."""
    value = row.get(name)
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) < WHOLE and value == int(value) else f"{value:.5g}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
