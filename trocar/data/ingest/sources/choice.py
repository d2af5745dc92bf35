"""Which of the found videos, folders and pictures are ingested, and as what; a warning names the rest."""

from __future__ import annotations

from collections.abc import Sequence

from trocar.data.ingest.options import IngestOptions, Say
from trocar.data.ingest.sources.find import FoundSource, Sources, by_name, printable
from trocar.data.ingest.sources.frame_folders import matches_any
from trocar.data.ingest.sources.metadata import VideoTable, frame_spec, read_table, table_beside
from trocar.data.ingest.sources.stills import finder, take_stills
from trocar.errors import ConfigError


def choose(
    sources: Sources, table: VideoTable, options: IngestOptions, say: Say, *, shown: bool
) -> tuple[list[FoundSource], list[FoundSource]]:
    """Videos and folders of frames, and stills, each by name. Without `shown` nothing is named.

    Raises ConfigError for two of one name, and where nothing is left.
    """
    if options.stills and options.frames:
        raise ConfigError("--stills takes pictures one by one, --frames says which times they are of: give one of them")
    for omission in sources.omissions:
        names = such_as([printable(path) for path in omission.paths], shown)
        say(f"warning: left out: {len(omission.paths)} {omission.what}{names}")
    rest, stills, partly = take_stills(sources, table, everything=options.stills, prefix=options.prefix)
    if options.stills and not stills:
        raise ConfigError(f"--stills: no pictures below {', '.join(map(printable, options.sources))}")
    if partly:
        say(f"warning: left out: {partly} images of folders of which videos.csv calls only others stills")
    items = _without_stray([*rest.items, *_beside(rest, table, options, say, shown)], table, options, say, shown)
    found = by_name(items)
    _say_missing(found, stills, table, say)
    return found, stills


def table_of(options: IngestOptions, sources: Sources, say: Say) -> VideoTable:
    """videos.csv by what its rows describe. Raises ConfigError for one asked for that describes nothing here."""
    path = options.metadata or table_beside(options.sources)
    known = [*sources.items, *sources.beside]
    if path is None:
        say(f"no videos.csv: hospital and procedure stay empty; source is {known[0].default_source!r}")
        return VideoTable()
    table = read_table(path, finder(sources, options.prefix, stills=options.stills))
    if options.metadata is not None and not table.rows:
        raise ConfigError(
            f"{path} describes none of the videos: it names {', '.join(sorted(table.strangers)[:3]) or 'none'}, "
            f"found were {', '.join(sorted(item.name for item in known)[:3])}"
        )
    if options.metadata is None:
        say(f"metadata from {path}")
    return table


def such_as(names: Sequence[str], shown: bool) -> str:
    """`: a, b`, or nothing."""
    return f": {some(names)}" if shown else ""


def some(names: Sequence[str]) -> str:
    """The first five, and whether there are more."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def count(number: int, word: str) -> str:
    """`1 still`, `2 stills`."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def _beside(sources: Sources, table: VideoTable, options: IngestOptions, say: Say, shown: bool) -> list[FoundSource]:
    """Of the folders of images beside videos those of which it is said how to read them."""
    taken = [item for item in sources.beside if options.frames or table.of(item.path).get("frames")]
    left = [item for item in sources.beside if item not in taken]
    if left:
        images = count(sum(len(folder.pictures) for folder in left), "image")
        what = f"{count(len(left), 'folder')} of images beside the videos ({images})"
        todo = "--frames takes folders of frames, --stills single pictures"
        say(f"warning: left out: {what}{such_as([folder.shown for folder in left], shown)}; {todo}")
    return taken


def _without_stray(
    items: Sequence[FoundSource], table: VideoTable, options: IngestOptions, say: Say, shown: bool
) -> Sequence[FoundSource]:
    """Without the folders in which --frames matches nothing, as long as there is anything else."""
    fitting = [item for item in items if not item.is_folder or _fits(item, table, options)]
    stray = [item for item in items if item not in fitting]
    if not fitting or not stray:
        return items
    what = f"{count(len(stray), 'folder')} in which no image matches --frames {options.frames!r}"
    say(f"warning: left out: {what}{such_as([item.shown for item in stray], shown)}")
    return fitting


def _fits(item: FoundSource, table: VideoTable, options: IngestOptions) -> bool:
    """Whether the pattern for all folders fits this one; one of its own, in videos.csv, has to."""
    own = bool(table.of(item.path).get("frames"))
    return own or options.frames is None or matches_any(item.path, frame_spec(item, table, options.model_dump()))


def _say_missing(found: Sequence[FoundSource], stills: Sequence[FoundSource], table: VideoTable, say: Say) -> None:
    if table.path is None:
        return
    for what, missing in (
        ("rows of videos.csv have no video", sorted(table.strangers)),
        ("videos have no row in videos.csv", [item.name for item in found if not table.of(item.path)]),
        ("stills have no row in videos.csv", [item.name for item in stills if not table.inherited(item.path)]),
        ("columns of videos.csv are not used", list(table.unknown)),
    ):
        if missing:
            say(f"warning: {len(missing)} {what}: {some(missing)}")
