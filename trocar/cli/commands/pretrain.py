"""`trocar pretrain CONFIG [key=value ...]`: self-supervised pretraining; the same run folder always resumes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trocar.cli.shared_args import add_options, check, profile_of, submit_configured

if TYPE_CHECKING:
    from trocar.slurm.profile import Profile
    from trocar.ssl.run.pretrain_config import PretrainConfig


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "pretrain",
        help="pretrain a backbone on a catalog of frames",
        description="Pretrain a backbone by self-supervision. The same run.out always resumes, with no flag.",
    )
    parser.add_argument("config", help="a YAML file or a preset (see `trocar presets list`)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.steps=1000 run.out=runs/a")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what the run would do (with --slurm: sbatch's script)"
    )
    parser.add_argument(
        "--sweep",
        metavar="KEY=A,B,...",
        action="append",
        default=[],
        help="run a short arm for each value, compare them by a probe, and write the chosen configuration to "
        "RUN/sweep/chosen.yaml; several keys: all combinations",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="with --sweep: run no arm; table and choice of those that have ended",
    )
    add_options(parser, dry_run=False)
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """Load, launch ranks if there are several, train."""
    from trocar.core.config import load
    from trocar.errors import ConfigError
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.ranks.machine import ranks_to_start
    from trocar.ssl.run.pretrain_config import PretrainConfig

    check(args, own_dry_run=True)
    config = load(PretrainConfig, args.config, args.overrides)
    if args.sweep:
        return _sweep(args)
    if args.table:
        raise ConfigError("--table shows the arms of a sweep: it needs --sweep KEY=A,B,...")
    if args.slurm is not None:
        return _submit(args, config)
    world = World.from_environment()
    if world is None and not args.dry_run and (ranks := ranks_to_start(config)) > 1:
        return _launch(args, ranks)
    world = world or World()

    from trocar.cli.terminal import StopSignals
    from trocar.core.resources import keep_freed
    from trocar.jobs.pretrain import describe, pretrain
    from trocar.slurm.requeue import after_stop

    def say(line: str) -> None:
        if world.is_main:
            _say(line)

    if args.dry_run:
        print("\n".join(describe(config, say, world)))
        return 0
    keep_freed()
    stop = StopSignals()
    pretrain(
        config, say, world=world, stop=stop, after_stop=lambda number, world: after_stop(number, world.is_main, _say)
    )
    return 0


def _sweep(args: argparse.Namespace) -> int:
    """Short arms one after another or as jobs, a table, and a file."""
    from trocar.cli.terminal import StopSignals, answered, stopping
    from trocar.core.config import load
    from trocar.core.progress import table_console
    from trocar.errors import ConfigError, TrocarError
    from trocar.jobs.sweep import collect, sweep
    from trocar.slurm.requeue import after_stop
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.run.pretrain_config import PretrainConfig

    if (World.from_environment() is not None and not args.table) or (args.dry_run and args.slurm is None):
        raise ConfigError(
            "--sweep runs its arms one after another on this machine, with run.ranks ranks each: leave out --dry-run, "
            "torchrun and srun, or submit them with --slurm"
        )
    keys = dict(_values(word) for word in args.sweep)

    def configured(changes: Mapping[str, Any], overrides: Sequence[str] = args.overrides) -> PretrainConfig:
        return load(PretrainConfig, args.config, [*overrides, *(f"{key}={value}" for key, value in changes.items())])

    def whole(changes: Mapping[str, Any]) -> PretrainConfig:
        """As long as the file says, where it says so: `train.steps` on the command line is the length of arms."""
        try:
            return configured(changes, _lasting(args.overrides)[0])
        except ConfigError:
            return configured(changes)

    if args.table:
        result = collect(configured, keys, whole=whole)
    elif args.slurm is None:
        result = sweep(
            configured,
            keys,
            _say,
            whole=whole,
            stop=StopSignals(),
            after_stop=lambda number, world: after_stop(number, world.is_main, _say),
            passing=lambda send: answered(stopping(), send),
        )
    elif _submit_sweep(args, configured, keys):
        return 0
    else:
        result = collect(configured, keys, whole=whole)
    table_console(110).print(result.table())
    if result.missing:
        raise TrocarError(
            f"{result.verdict}; the same sweep again, here or with --slurm, runs what is missing: "
            f"{'; '.join(arm.name for arm in result.missing)}"
        )
    print(f"the chosen configuration is {result.chosen}")
    return 0


def _submit_sweep(
    args: argparse.Namespace, configured: Callable[[Mapping[str, Any]], PretrainConfig], keys: Mapping[str, Any]
) -> bool:
    """The arms as an array of jobs, or its scripts; False where all arms have ended."""
    from trocar.jobs.sweep import plan_sweep
    from trocar.jobs.sweep_array import SweepWords, submit_sweep, sweep_scripts
    from trocar.slurm.submit import frozen, tell

    profile, planned = profile_of(args), plan_sweep(configured, keys)
    for arm in planned.arms:
        _require_fit(arm.config, profile)
    lasting, lengths = _lasting(args.overrides)
    file, text = frozen(planned.out, args.command, args.config, lasting)
    swept = tuple(word for given in args.sweep for word in ("--sweep", given))
    words = SweepWords(file, text, (args.command, str(file), *lengths), swept, _changes(profile))
    if args.dry_run:
        print(sweep_scripts(planned, words, profile) or "# all arms have ended: there is nothing to submit\n", end="")
        return True
    submissions = submit_sweep(planned, words, profile, _say)
    for submission in submissions:
        tell(submission, _say)
    return bool(submissions)


def _lasting(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """What holds for the run that is chosen for as well, and the words that give the length of a sweep's arms."""
    lengths = [word for word in overrides if word.startswith(("train.steps=", "train.epochs="))]
    return [word for word in overrides if word not in lengths], lengths


def _values(word: str) -> tuple[str, list[str]]:
    """`key=a,b` -> the key and its values as they are written; commas within brackets belong to a value."""
    from trocar.errors import ConfigError

    key, equals, text = word.partition("=")
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not equals or not key or not all(values) or len(set(values)) < len(values):
        raise ConfigError(f"--sweep {word!r}: expected key=a,b with different values, such as optim.lr=3e-4,1e-3")
    return key, values


def _launch(args: argparse.Namespace, ranks: int) -> int:
    """The same command once per rank; each answers signals for itself, and those that come here are passed on."""
    from trocar.cli.terminal import answered, stopping
    from trocar.ssl.ranks.rendezvous import launch

    words = ["pretrain", args.config, *args.overrides]
    return launch(words, ranks, _say, lambda send: answered(stopping(), send))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _submit(args: argparse.Namespace, config: PretrainConfig) -> int:
    """As a job of one rank per task; what can be checked before it waits in a queue is checked here."""
    profile = profile_of(args)
    _require_fit(config, profile)
    return submit_configured(
        args, profile, config.run.out, (args.config, args.overrides), changes=_changes(profile), is_run=True
    )


def _require_fit(config: PretrainConfig, profile: Profile) -> None:
    """Raises ConfigError for a run that jobs of this profile cannot do."""
    from trocar.data.catalog.catalog import Catalog
    from trocar.errors import ConfigError
    from trocar.jobs.pretrain import require_own

    require_own(config)
    Catalog.open(config.data.catalog)
    share = profile.ranks * config.train.accumulate
    if config.train.batch % share:
        raise ConfigError(
            f"train.batch {config.train.batch} does not divide by the profile's ranks x accumulate = {share}"
        )


def _changes(profile: Profile) -> dict[str, Any]:
    """The keys that a profile sets: its tasks are the ranks, and its nodes may have a disk of their own."""
    return {"run.ranks": 1} | ({"data.stage_to": profile.stage_to} if profile.stage_to is not None else {})
