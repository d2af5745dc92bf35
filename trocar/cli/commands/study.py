"""`trocar study {plan,run,status,report}`: which pretraining data helped, from one file."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trocar.cli.shared_args import add_options, check, profile_of
from trocar.errors import StoppedError

if TYPE_CHECKING:
    from trocar.slurm.profile import Profile
    from trocar.study.config import StudyConfig
    from trocar.study.stages import Store
    from trocar.study.study_lock import StudyLock
    from trocar.study.study_plan import StudyPlan


def register(subparsers: Any) -> None:
    """Declare `trocar study` and its actions."""
    parser = subparsers.add_parser("study", help="compare pretraining data over tasks, budgets and seeds")
    actions = parser.add_subparsers(dest="action", metavar="{plan,run,status,report}", required=True)
    plan = _action(actions, "plan", run_plan, "what would be computed, what exists already, what it costs")
    plan.add_argument("--update", action="store_true", help="accept new data and versions; says what they change")
    plan.add_argument("--prepare", action="store_true", help="first run the study's `prepare`, which makes its data")
    add_options(plan, dry_run=False, purpose="plan for the jobs of a cluster")
    run = _action(actions, "run", run_run, "compute everything that is missing; running it again continues")
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="stages at a time (default: 1)")
    add_options(run)
    run.add_argument("--uri", help="mlflow tracking URI (default as in `trocar track sync`); none: no mlflow")
    _action(actions, "status", run_status, "counts, failing stages with the end of their logs, time left")
    report = _action(actions, "report", run_report, "write the report of what is done")
    report.add_argument("--out", type=Path, help="folder (default: STORE/studies/NAME/report)")
    stage = actions.add_parser("stage", description="Run one stage, as `trocar study run` and SLURM jobs do.")
    stage.add_argument("folder", type=Path, help="a folder of STORE/stages with a stage.yaml")
    stage.set_defaults(run=run_stage, continues=True)


def _action(actions: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("study", metavar="STUDY", help="a YAML file or a preset such as study/phantom")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as pretrain_seeds=5 store=here")
    parser.set_defaults(run=run, continues=True)
    return parser


def run_plan(args: argparse.Namespace) -> int:
    """Plan, print, write study.lock."""
    check(args)
    study, store = _open(args)
    plan = _plan(study, args.prepare, profile_of(args) if args.slurm is not None else None)
    lock = _locked(plan, store, args.update)
    _print_plan(plan, lock, store)
    return 0


def run_run(args: argparse.Namespace) -> int:
    """Run or submit everything that is missing, then bring mlflow up to what is done."""
    from trocar.errors import ConfigError

    check(args, own_dry_run=True)  # which says below what it needs
    if args.dry_run and args.slurm is None:
        raise ConfigError(
            "--dry-run prints the scripts for --slurm; `trocar study plan` says what a local run would do"
        )
    study, store = _open(args)
    profile = profile_of(args) if args.slurm is not None else None
    if profile is not None and args.dry_run:
        return _print_scripts(profile, _plan(study, False, profile), store)
    from trocar.cli.terminal import answered
    from trocar.study.whole_study import run_whole

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    report = run_whole(
        study,
        _say,
        jobs=args.jobs,
        profile=profile,
        uri=args.uri,
        called=args.study,
        answering=lambda stop: answered(numbers, stop),
    )
    if profile is None:
        print(f"finished; the report is in {report}")
        return 0
    from trocar.study.study_lock import require_lock

    left = sum(not store.is_done(name) for name in require_lock(store, study.name).stages)
    print(f"{left} stages are submitted; `trocar study status {args.study}` or `trocar jobs` to follow")
    return 0


def _print_scripts(profile: Profile, plan: StudyPlan, store: Store) -> int:
    from trocar.study.stage_executors import SlurmExecutor

    study = plan.study
    _locked(plan, store, update=False)
    print(SlurmExecutor(store, study.name, profile, study.threads, study.keep).script(plan.stages), end="")
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Print how far the study is."""
    from trocar.study.overview import status_of
    from trocar.study.study_lock import require_lock

    study, store = _open(args)
    status = status_of(require_lock(store, study.name), store)
    print("\n".join(status.lines()))
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Write the report."""
    from trocar.report.study_report import write

    study, store = _open(args)
    out = args.out or store.study(study.name) / "report"
    print(f"the report is {write(study, store, out, say=_say)}")
    return 0


def run_stage(args: argparse.Namespace) -> int:
    """Run one stage in this process."""
    from trocar.cli.main import main
    from trocar.cli.terminal import answered, raise_stopped
    from trocar.study.stage_execution import run_stage as execute

    def command(words: Sequence[str]) -> int:
        try:
            return main(words)
        except SystemExit as stop:
            raise StoppedError(stop.code if isinstance(stop.code, int) else 1) from None

    # SIGTERM ends a command that has no answer of its own in order, so that the stage's lease is given back.
    with answered([signal.SIGTERM], raise_stopped):
        return execute(args.folder, command)


def _open(args: argparse.Namespace) -> tuple[StudyConfig, Store]:
    from trocar.study.config import load_study
    from trocar.study.stages import Store

    study = load_study(args.study, args.overrides)
    return study, Store(study.store)


def _plan(study: StudyConfig, prepare: bool, profile: Profile | None) -> StudyPlan:
    from trocar.study.study_plan import make_plan
    from trocar.study.whole_study import require_prepared, run_prepare

    if prepare:
        run_prepare(study.prepare, _say)
    elif said := require_prepared(study):
        _say(said)
    return make_plan(study, profile)


def _locked(plan: StudyPlan, store: Store, update: bool) -> StudyLock:
    """The lock of the plan, written. Raises ConfigError."""
    from trocar.study.whole_study import lock_plan

    return lock_plan(plan, store, update, _say)


def _print_plan(plan: StudyPlan, lock: StudyLock, store: Store) -> None:
    from trocar.core.progress import table_console
    from trocar.study.overview import plan_tables

    console = table_console(140)
    for part in plan_tables(plan, lock, store):
        console.print(part)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
