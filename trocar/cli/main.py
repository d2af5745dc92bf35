"""The `trocar` command: parse, call, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import gc
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from trocar import __version__
from trocar.cli import commands, shared_args, terminal
from trocar.core import resources
from trocar.errors import StoppedError, TrocarError
from trocar.privacy.redaction import redact


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or that of the command `only`, which is made sooner.

    Each command declares itself in `trocar/cli/commands/<name>.py`. One that keeps what was done before an
    interruption declares `continues=True` by the parser's defaults.
    """
    parser = argparse.ArgumentParser(
        prog="trocar",
        description="Pretrain surgical vision backbones by self-supervision and measure what it was worth.",
    )
    parser.add_argument("--version", action="version", version=f"trocar {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    for name in [only] if only in names else names:
        importlib.import_module(f"trocar.cli.commands.{name}").register(subparsers)
    shared_args.add_option(parser)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; `key=value` overrides may stand anywhere after the configuration, also behind options."""
    words = sys.argv[1:] if argv is None else argv
    parser = build_parser(words[0] if words else None)
    args, extra = parser.parse_known_args(argv)
    overrides = getattr(args, "overrides", None)
    if overrides is None or any(word.startswith("-") or "=" not in word for word in extra):
        if extra:
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        return args
    overrides.extend(extra)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 only if all of it worked, 1 on a run-time failure, 2 on bad configuration.

    Raises SystemExit with the exit code of a command that was stopped by a signal and has saved.
    """
    args = parse(argv)
    try:
        shared_args.use_plugins(args)
        return int(args.run(args))
    except StoppedError as stop:
        raise SystemExit(stop.code) from None
    except TrocarError as error:
        # An override that is refused may be a tracking URI.
        terminal.say(f"trocar {args.command}: {redact(str(error))}")
        return error.exit_code
    except OSError as error:
        # Pipes to other processes break too; only where our own reader is gone is nothing wrong.
        if isinstance(error, BrokenPipeError) and terminal.reader_gone():
            return terminal.READER_GONE
        # A full disk, a folder without permission, a file server gone: what the system says, and where.
        where = f"{error.filename}: " if error.filename else ""
        terminal.say(f"trocar {args.command}: {where}{error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        again = "continues where it stopped" if getattr(args, "continues", False) else "starts again from the beginning"
        terminal.say(f"trocar {args.command}: interrupted; the same command {again}")
        return 130


def entry() -> int:
    """The program `trocar`: `main` on its arguments, for training on huge pages."""
    if sys.argv[1:2] == ["pretrain"] or sys.argv[1:3] == ["study", "stage"]:
        resources.restart_on_huge_pages()
    try:
        code = main()
    except SystemExit as stop:  # of argparse: help, the version, or words it does not know
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == 0 and terminal.reader_gone():  # which argparse says nothing of since Python 3.12
            code = terminal.READER_GONE
    except OSError as error:  # of argparse, too: only what it prints lies outside of `main`'s care
        code = terminal.lost(error)
    code = terminal.finish(code)
    gc.freeze()  # the interpreter's end would look through a million objects of torch three times
    return code
