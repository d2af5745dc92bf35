"""`--plugin` of every command, and `--slurm` of those that can run as jobs.

Imported by every `trocar` call: nothing heavy at the top.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.slurm.profile import Profile


def add_option(parser: argparse.ArgumentParser) -> None:
    """Declare the option for the command of `parser`, or for all commands below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for child in dict.fromkeys(action.choices.values()):
            add_option(child)
    if below:
        parser.set_defaults(plugin=[])  # `trocar jobs` needs no word behind it
    else:
        parser.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="PACKAGE",
            help="a package of your own to import first; may be repeated (not needed where it declares entry points)",
        )


def use_plugins(args: argparse.Namespace) -> None:
    """Import them; a command with a configuration also gets them into that, beside the plugins that its file lists, so
    that jobs, ranks and stages import them too. Raises ConfigError.
    """
    if not args.plugin:
        return
    from trocar.core.config import tree_of
    from trocar.core.plugins import import_plugins

    import_plugins(args.plugin)
    overrides: list[str] | None = getattr(args, "overrides", None)
    if overrides is None:
        return
    files = [getattr(args, "config", None), getattr(args, "study", None), *(o for o in overrides if "=" not in o)]
    path = next((file for file in files if file is not None), None)
    listed = tree_of(path, [override for override in overrides if "=" in override]).get("plugins") or []
    overrides.append(f"plugins={json.dumps(list(dict.fromkeys([*listed, *args.plugin])))}")


def add_options(parser: argparse.ArgumentParser, *, dry_run: bool = True, purpose: str = "submit as a job") -> None:
    """Declare the options; `dry_run=False` where the command has a dry run of its own."""
    group = parser.add_argument_group("on a cluster")
    group.add_argument("--slurm", metavar="PROFILE", help=f"{purpose}: a YAML file, or `local`, `gpu`, `cpu`")
    group.add_argument("--slurm-set", metavar="KEY=VALUE", action="append", default=[], help="change the profile")
    if dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="with --slurm: print the exact sbatch script, and stop"
        )


def check(args: argparse.Namespace, *, own_dry_run: bool = False) -> None:
    """Raises ConfigError for options that only mean something with --slurm; `own_dry_run`: the command has one."""
    from trocar.errors import ConfigError

    if args.slurm is None and args.slurm_set:
        raise ConfigError("--slurm-set changes a profile: it needs --slurm")
    if args.slurm is None and getattr(args, "dry_run", False) and not own_dry_run:
        raise ConfigError("--dry-run prints the script of a job: it needs --slurm")


def profile_of(args: argparse.Namespace) -> Profile:
    """The profile that was asked for. Raises ConfigError."""
    from trocar.slurm.profile import load_profile

    return load_profile(args.slurm, args.slurm_set)


def submit_configured(
    args: argparse.Namespace,
    profile: Profile,
    out: Path,
    config: tuple[str | Path | None, Sequence[str]],
    *,
    changes: Mapping[str, Any] | None = None,
    is_run: bool = False,
) -> int:
    """Submit a command whose only word is its configuration (file and overrides), or print its script. Exit code 0.

    `is_run`: `out` is a run folder, whose record is told about requeues.
    """
    from trocar.slurm.submit import freeze, frozen, script, submit, tell

    path, text = frozen(out, args.command, *config, changes)
    words = [args.command, str(path)]
    if args.dry_run:
        print(script(words, out, profile), end="")
        return 0
    freeze(path, text)
    tell(submit(words, out, profile, run=out if is_run else None), print)
    return 0
