"""`--plugin` of every command. Imported by every `trocar` call: nothing heavy at the top."""

from __future__ import annotations

import argparse
import json


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
