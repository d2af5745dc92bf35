"""`trocar evaluate`: backbones on labelled frames, frozen or fine-tuned, beside random weights, raw pixels and the
majority class.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trocar.cli.shared_args import add_options, check, profile_of, submit_configured

if TYPE_CHECKING:
    from trocar.core.messages import Say
    from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
    from trocar.ssl.ranks.distributed import World

LISTS = ("backbone", "task", "protocol")
VALUES = (
    *("data", "layout", "seeds", "repeats", "size", "fps", "folds", "split", "val", "budget", "draws"),
    *("remap", "shards", "phases", "out", "cache", "device", "precision", "ranks", "tracking"),
)


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("evaluate", help="compare backbones on a labelled data set", description=__doc__)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="CONFIG | key=value",
        help="a YAML file or preset, and overrides; fields have the names of the options",
    )
    add = parser.add_argument
    add("--backbone", action="append", metavar="[LABEL=]PATH[,PATH...]", help="run, exported folder or timm name")
    add("--data", help="folder of a labelled data set")
    add(
        "--task",
        action="append",
        help="phase, step, tools, cvs, triplet, segmentation, or phase+tools; may be repeated",
    )
    add(
        "--protocol",
        action="append",
        help="knn, linear, finetune, temporal_frozen, temporal_finetuned or segmentation; may be repeated",
    )
    add("--seeds", type=int, help="draws of each random-weights baseline (default 3)")
    add("--repeats", type=int, help="random starts of a protocol that trains (default 1)")
    add("--size", type=int, help="input size in pixels (default: what each backbone was trained with)")
    add("--fps", type=float, help="labelled frames per second that are used (default 1)")
    add("--folds", help="auto, split, leave-one-case-out or a number of folds by case")
    add("--split", help="a published split list, such as 40-40 for Cholec80")
    add("--val", help="auto, official, within_budget or carve_out: the cases that choices are made on")
    add("--budget", help="labelled training cases: a number, a share such as 25%%, or a published list")
    add("--draws", type=int, help="how many draws of the budget (default 1)")
    add("--remap", help="merges classes of masks: a name or a file")
    add("--shards", help="read frames from a folder of `trocar ingest`")
    add("--phases", type=lambda text: text.split(","), help="phase names in order, for a data set with its own")
    add("--layout", help="name of the data set's layout (default: recognised)")
    add("--device", help="auto, cpu or cuda")
    add("--precision", help="auto (bfloat16 on a GPU that has it, else float32), float32 or bfloat16")
    add(
        "--ranks",
        type=lambda text: int(text) if text.isdigit() else text,
        help="processes that share the work, or auto: one per GPU, with --slurm one per task (default 1)",
    )
    add("--out", help="folder for results, predictions, metrics.json, masks and figures")
    add("--cache", help="folder for decoded frames and features (default: OUT/cache, else the user's cache)")
    add(
        "--tracking",
        metavar="URI",
        help="log the results to mlflow, too: a tracking URI, or sqlite for OUT/../mlflow.db",
    )
    add("--dry-run", action="store_true", help="print what would be evaluated (with --slurm: and the sbatch script)")
    add_options(parser, dry_run=False)
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print one table per task, and say where the files are."""
    from trocar.core.config import load
    from trocar.core.progress import Console, table_console
    from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
    from trocar.jobs.evaluate import describe, evaluate, take_part

    path, overrides = _arguments(args)
    config = load(EvaluateConfig, path, overrides)
    check(args, own_dry_run=True)
    errors = Console(stderr=True, highlight=False)
    if args.slurm is not None:
        return _submit(args, config, (path, overrides), lambda line: errors.print(line, markup=False, soft_wrap=True))
    world = _world()
    if args.dry_run:
        for line in describe(config, None if world is None else world.size):
            print(line)
        return 0
    if world is not None and world.rank > 0:
        with _stopped_in_order():
            take_part(config, world)
        return 0
    if not config.backbone:
        errors.print("no --backbone: the baselines alone", markup=False)
    with nullcontext() if config.ranks == 1 and world is None else _stopped_in_order():
        results = evaluate(config, say=lambda line: errors.print(line, markup=False), world=world)
    console = table_console(120)
    for table in results.tables():
        console.print(table)
    if config.out is not None:
        where = results.hidden.text(str(config.out))
        print(f"results.json, results.md, metrics.json and predictions.parquet are in {where}")
    else:
        print("nothing was written: --out FOLDER keeps tables, predictions and figures")
    return 0


def _submit(
    args: argparse.Namespace, config: EvaluateConfig, given: tuple[str | Path | None, list[str]], say: Say
) -> int:
    """As a job of one rank per task of the profile if `ranks` says so, else of one process."""
    from trocar.errors import ConfigError
    from trocar.jobs.evaluate import describe

    if config.out is None:
        raise ConfigError("--slurm: give --out, the folder for results and for the job's logs")
    profile = profile_of(args)
    if config.ranks == 1:
        profile = profile.single()
    elif config.ranks not in ("auto", profile.ranks):
        raise ConfigError(
            f"ranks={config.ranks}, but the profile has {profile.nodes} node(s) with {profile.ranks_per_node} task(s) "
            f"each, and a job has a rank per task: take ranks=auto, or change nodes and tasks_per_node by --slurm-set"
        )
    if args.dry_run:
        for line in describe(config, profile.ranks):
            say(line)
    return submit_configured(args, profile, config.out, given, changes=None if config.ranks == 1 else {"ranks": 1})


def _world() -> World | None:
    """Which of several ranks this process was started as; None where nobody did."""
    if not {"RANK", "SLURM_PROCID"} & os.environ.keys():
        return None  # without the second that the import takes
    from trocar.ssl.ranks.distributed import World

    world = World.from_environment()
    return None if world is None or world.size == 1 else world


@contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Within, what ends this process by a signal also ends the ranks that it has started, and no file that was being
    written stays behind.
    """
    from trocar.cli.terminal import answered, raise_stopped

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    with answered(numbers, raise_stopped):
        yield


def _arguments(args: argparse.Namespace) -> tuple[str | Path | None, list[str]]:
    """The configuration file, if any, and all flags as `key=value` overrides behind those that were written
    so.
    """
    from trocar.errors import ConfigError

    files = [text for text in args.overrides if "=" not in text]
    if len(files) > 1:
        raise ConfigError(f"several configuration files: {', '.join(files)}")
    overrides = [text for text in args.overrides if "=" in text]
    for name in (*LISTS, *VALUES):
        value = getattr(args, name)
        if value is not None:
            overrides.append(f"{'tracking.uri' if name == 'tracking' else name}={json.dumps(value)}")
    return (files[0] if files else None), overrides
