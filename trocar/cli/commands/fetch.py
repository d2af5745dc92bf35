"""`trocar fetch`: published weights onto this machine; nothing else of Trocar uses the network.

Those of Trocar's own table are checked against their checksums and recorded; timm's (`timm:NAME`) go into the cache of
its hub, where jobs, which run without a network, find them if they see that folder.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar.backbones.published.family import Published


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "fetch", help="download published weights, checked and recorded", description=__doc__
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME | CONFIG",
        help="as `trocar fetch --list` has them, or timm:NAME; or a configuration of pretraining, of an evaluation or "
        "of a study, for all weights that it names",
    )
    parser.add_argument("--list", action="store_true", help="all names, with licence and what is fetched")
    parser.add_argument("--from", dest="origin", metavar="FILE|URL", help="another copy, such as one you downloaded")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch one after another; those that are there are verified."""
    from trocar.backbones import weight_store
    from trocar.backbones.source import TIMM
    from trocar.errors import ConfigError

    if args.list:
        return _list()
    if not args.names:
        raise ConfigError("give a name; `trocar fetch --list` has them")
    names = list(dict.fromkeys(name for given in args.names for name in _named(given)))
    if args.origin and (len(args.names) > 1 or names != args.names or names[0].startswith(TIMM)):
        raise ConfigError("--from goes with one name of `trocar fetch --list`")
    chosen = [name if name.startswith(TIMM) else weight_store.entry(name) for name in names]
    for one in chosen:
        if isinstance(one, str):
            _fetch_timms(one)
        else:
            _fetch(one, args.origin)
    return 0


def _named(given: str) -> list[str]:
    """The weights that a word of the command line stands for."""
    from pathlib import Path

    from trocar.backbones.weight_names import weights_in
    from trocar.core.config import preset_names, tree_of

    if not given.endswith((".yaml", ".yml")) and not Path(given).is_file() and given not in preset_names():
        return [given]
    names = weights_in(tree_of(given), tree_of)
    if not names:
        print(f"{given} names no weights that would have to be fetched")
    return names


def _fetch(entry: Published, origin: str | None) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from trocar.backbones import weight_store
    from trocar.core.progress import Console

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(entry.name, total=None)
        record = weight_store.fetch(entry, origin, partial(_advance, bar, task))
    path = weight_store.root() / entry.name / record.file
    print(f"{entry.name}: {path}, {record.bytes / 1e6:.0f} MB, sha256 {record.sha256}")
    if not weight_store.is_published_file(entry):
        print("nobody has compared this file with the published one: verdicts on test data count it as unknown")
    print(f"licence {entry.family.licence}; {entry.family.citation}")


def _fetch_timms(name: str) -> None:
    """Loaded once, in the very way in which a job will load them."""
    from huggingface_hub import constants

    from trocar.backbones import load_backbone
    from trocar.backbones.identify import fingerprint
    from trocar.backbones.source import TIMM
    from trocar.backbones.weight_names import licence_of

    model = load_backbone(name)
    print(f"{name}: in {constants.HF_HUB_CACHE}, fingerprint {fingerprint(model)}")
    print(f"licence {licence_of(name.removeprefix(TIMM))}; jobs need to see that folder (HF_HOME moves it)")


def _advance(bar: Any, task: Any, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


def _list() -> int:
    """One line per name, never cut: they are for copying and for scripts."""
    from trocar.backbones import weight_store
    from trocar.backbones.published.family import BACKBONES
    from trocar.backbones.published.unloadable import UNLOADABLE

    found = BACKBONES.values()
    licences = max(len(e.family.licence) for e in found)
    widths = [max(map(len, column)) for column in zip(*((e.name, e.architecture) for e in found), strict=True)]
    for e in found:
        fetched = "fetched" if weight_store.read_record(e.name) else ""
        print(
            f"{e.name:{widths[0]}s}  {e.architecture:{widths[1]}s}  {e.family.licence:{licences}s}  {fetched}".rstrip()
        )
    for known in UNLOADABLE.values():
        print(f"{known.name:{widths[0]}s}  not loaded: {known}")
    print(f"fetched weights are in {weight_store.root()}")
    return 0
