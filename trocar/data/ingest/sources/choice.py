"""Which of the found videos, folders and pictures are ingested, and as what; a warning names the rest.

Isolated pictures: which of the pictures below the sources are such, and what each is called. Pictures of different
cases that look alike are named: the cases may be one patient's, and a split would cut them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from trocar.core.messages import Say
from trocar.data.catalog.catalog import to_numpy
from trocar.data.catalog.writer import VideoEntry
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.quality import COPY_BITS, LEAST_BITS, distance, set_bits
from trocar.data.ingest.sources.find import (
    MAX_NAME,
    FoundSource,
    Sources,
    by_name,
    fit_name,
    matches_any,
    printable,
    video_id,
)
from trocar.data.ingest.sources.metadata import STILLS, Find, Lookup, VideoTable, frame_spec, read_table, table_beside
from trocar.data.media.delivered_files import IMAGE_SUFFIXES, posix_name, without_ending
from trocar.errors import ConfigError

_HASH = 8


def finder(sources: Sources, prefix: str, *, stills: bool) -> Find:
    """Who a row of videos.csv describes: a video or folder of frames, else a folder above such, else a picture (with
    its ending, if not all pictures are `stills`).
    """
    folders = [item for item in (*sources.items, *sources.beside) if item.is_folder]
    known = Lookup([*sources.items, *sources.beside], prefix)
    above = Lookup(_above(folders))
    pictures: list[Lookup] = []

    def find(text: str, where: str) -> FoundSource | None:
        if (found := known.find(text, where) or above.find(text, where)) is not None:
            return found
        if not stills and PurePosixPath(posix_name(text)).suffix.lower() not in IMAGE_SUFFIXES:
            return None
        if not pictures:  # there may be millions, and most tables name none of them
            pictures.append(Lookup(still for folder in folders for still in _stills(folder, folder.pictures)))
        return pictures[0].find(text, where)

    return find


def take_stills(
    sources: Sources, table: VideoTable, *, everything: bool, prefix: str
) -> tuple[Sources, list[FoundSource], int]:
    """The sources without their stills, the stills by name, and how many pictures are left out of folders of which only
    some are stills.

    `everything`: all pictures are, but in folders for which videos.csv has a pattern of frame names.
    """
    stills: list[FoundSource] = []
    taken: set[Path] = set()
    partly = 0
    single = any(row.get("frames") == STILLS for row in table.rows.values())
    for folder in (item for item in (*sources.items, *sources.beside) if item.is_folder):
        said = table.inherited(folder.path).get("frames", "")
        if said == STILLS or (everything and not said):
            own: Sequence[Path] = folder.pictures
        else:
            own = [path for path in folder.pictures if single and table.of(path).get("frames") == STILLS]
        if own:
            stills.extend(_stills(folder, own))
            taken.add(folder.path)
            partly += len(folder.pictures) - len(own)
    kept = replace(
        sources,
        items=tuple(item for item in sources.items if item.path not in taken),
        beside=tuple(item for item in sources.beside if item.path not in taken),
    )
    return kept, _named(stills, {item.name for item in (*kept.items, *kept.beside)}, prefix), partly


def _above(folders: Iterable[FoundSource]) -> list[FoundSource]:
    """Folders that hold no picture themselves, but folders that do."""
    found: dict[Path, FoundSource] = {}
    for folder in folders:
        path, relative = folder.path.parent, PurePosixPath(folder.relative).parent
        while relative.name:
            text = str(relative)
            found[path] = FoundSource(video_id(text, path), path, printable(path), True, folder.default_source, text)
            path, relative = path.parent, relative.parent
    for folder in folders:
        found.pop(folder.path, None)
    return list(found.values())


def _stills(folder: FoundSource, paths: Iterable[Path]) -> Iterator[FoundSource]:
    for path in paths:
        relative = "/".join(part for part in (folder.relative, posix_name(printable(path.name))) if part)
        name, shown = fit_name(without_ending(relative)), f"{folder.shown}/{printable(path.name)}"
        yield FoundSource(name, path, shown, False, folder.default_source, relative, is_still=True)


def _named(stills: list[FoundSource], taken: set[str], prefix: str) -> list[FoundSource]:
    """Fit and unique names: a hash of the path tells apart what would be called alike, and ends what is too long."""
    plain = [fit_name(prefix + still.name) for still in stills]
    counts = Counter(plain)
    named = []
    for still, name in zip(stills, plain, strict=True):
        if counts[name] > 1 or name in taken or len(name) > MAX_NAME:
            mark = hashlib.sha256(still.relative.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH]
            name = f"{name[: MAX_NAME - _HASH - 1]}-{mark}"
        named.append(replace(still, name=name))
    return sorted(named, key=lambda still: still.name)


MOST = 50_000
"""Stills that are compared, spread over all: 2.5 x 10^9 pairs are a few seconds."""
_BLOCK = 512


def alike_stills(videos: Sequence[VideoEntry]) -> str | None:
    """In words, how many stills look like one of another case, by the leak guard's threshold; None where none does.

    Pictures without structure (black, fog) look like each other in every operation and do not count.
    """
    stills = [video for video in videos if video.fps == 0]
    stills = stills[:: -(-len(stills) // MOST)] if stills else []
    if len(stills) < 2:
        return None
    hashes = np.concatenate([to_numpy(still.quality["dhash"]) for still in stills])
    cases = [(still.source, still.case_id) for still in stills]
    places = np.flatnonzero(set_bits(hashes) >= LEAST_BITS)
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
    case = np.array([numbers[cases[place]] for place in places.tolist()], np.int64)
    near = _cases_near(hashes[places], case, COPY_BITS)
    alike = np.flatnonzero((near != case[:, None]).any(1))
    if not len(alike):
        return None
    one = int(alike[0])
    others = np.flatnonzero(np.isin(case, near[one][near[one] != case[one]]))
    other = others[np.argmin(distance(hashes[places][others], hashes[places][one]))]
    example = f"{stills[places[one]].name} and {stills[places[other]].name}"
    return (
        f"{len(alike)} of {len(stills)} stills look like a still of another case (at most {COPY_BITS} of the 256 bits "
        f"of their hashes differ), such as {example}. Pictures of one patient in training and test are a leak: give "
        "videos.csv a case_id column, or --case-regex on their paths"
    )


def _cases_near(hashes: npt.NDArray[np.uint8], case: npt.NDArray[np.int64], radius: int) -> npt.NDArray[np.int64]:
    """int64[n, 2]: the lowest and the highest number of a case among the pictures within the radius of each one of
    uint8[n, 32], itself among them.
    """
    from trocar.core.hamming import hash_index

    # Equal hashes are compared once: a thousand copies would be a million pairs.
    distinct, which = np.unique(hashes, axis=0, return_inverse=True)
    which = which.reshape(-1)
    lowest, highest = np.full(len(distinct), len(case)), np.full(len(distinct), -1)
    np.minimum.at(lowest, which, case)
    np.maximum.at(highest, which, case)
    index = hash_index(distinct)
    near = np.empty((len(distinct), 2), np.int64)
    for start in range(0, len(distinct), _BLOCK):
        query, rows, _ = index.within(distinct[start : start + _BLOCK], radius)
        begins = np.flatnonzero(np.diff(query, prepend=-1))  # each finds itself, so none is empty
        near[start : start + _BLOCK, 0] = np.minimum.reduceat(lowest[rows], begins)
        near[start : start + _BLOCK, 1] = np.maximum.reduceat(highest[rows], begins)
    return near[which]


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
