"""From the arguments of an ingest to one job per video: sources, metadata, masks, exclusions, pseudonyms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trocar.config import fingerprint
from trocar.data.ingest.framefolder import list_frames, matches_any, unmatched
from trocar.data.ingest.lookup import Lookup
from trocar.data.ingest.metadata import (
    Table,
    frame_spec,
    matches,
    metadata_of,
    read_exclude,
    read_masks,
    read_table,
    table_beside,
)
from trocar.data.ingest.options import IngestOptions, Say
from trocar.data.ingest.pseudonym import Pseudonyms
from trocar.data.ingest.sources import Found, Sources, by_name, find, part_warning, prefixed, printable
from trocar.data.ingest.video import Job
from trocar.errors import ConfigError
from trocar.privacy import Withheld


def plan(options: IngestOptions, say: Say) -> list[Job]:
    """One job per video, by name. Raises ConfigError for anything in the arguments that is wrong."""
    sources = prefixed(find(options.sources, options.source), options.prefix)
    candidates = [*sources.items, *sources.beside]
    aliases = aliases_of(options)
    if aliases is not None:
        say = _without_names(say, candidates)
    table = _table(options, sources, say)
    _say_omissions(sources, say, shown=aliases is None)
    found = by_name(_chosen(sources, table, options, say, shown=aliases is None))
    cases_known = options.case_regex is not None or any(row.get("case_id") for row in table.rows.values())
    if not cases_known and (warning := part_warning([item.name for item in found])):
        say(f"warning: {warning}")
    names = [item.name for item in found]
    if options.case_regex is not None:
        _check_regex(options.case_regex, names, say)
    metadata = [metadata_of(item, table, options.case_regex, options.source) for item in found]
    pseudonyms = {aliases.video(item.name): item for item in found} if aliases is not None else {}
    excluded = read_exclude(options.exclude, Lookup(found, options.prefix, pseudonyms)) if options.exclude else {}
    masks = read_masks(options.masks, sorted({meta.source for meta in metadata})) if options.masks else {}
    jobs = []
    for item, meta in zip(found, metadata, strict=True):
        job = Job(
            name=item.name,
            path=item.path,
            shown=item.shown,
            root=options.out,
            key="",
            settings=options.settings,
            metadata=meta,
            frames=frame_spec(item, table, options.model_dump()) if item.is_folder else None,
            masks=masks.get(meta.source, ()),
            excluded=excluded.get(item.name, ()),
        )
        _warn_of_strangers(job, say)
        if aliases is not None:
            _refuse_folder_name(item, table, options)
            job = _disguised(job, aliases)
        jobs.append(replace(job, key=_key(job, say, aliases)))
    if aliases is not None:
        cases = zip(found, metadata, jobs, strict=True)
        rows = [(item.shown, job.name, meta.case_id, job.metadata.case_id) for item, meta, job in cases]
        say(f"names and their pseudonyms: {aliases.note(rows)}")
    return sorted(jobs, key=lambda job: job.name)


def _chosen(sources: Sources, table: Table, options: IngestOptions, say: Say, *, shown: bool) -> list[Found]:
    """What is ingested of the sources; a warning names the folders of images that are not."""
    taken = [item for item in sources.beside if options.frames or table.rows.get(item.name, {}).get("frames")]
    left = [item for item in sources.beside if item not in taken]
    if left:
        what = f"{_count(left, 'folder')} of images beside the videos ({sum(len(f.pictures) for f in left)} images)"
        todo = "--frames takes folders of frames"
        say(f"warning: left out: {what}{_such_as([f.shown for f in left], shown)}; {todo}")
    items = [*sources.items, *taken]
    fitting = [item for item in items if not item.is_folder or _fits(item, table, options)]
    stray = [item for item in items if item not in fitting]
    if not fitting or not stray:
        return items  # where nothing matches anywhere, the pattern is wrong
    what = f"{_count(stray, 'folder')} in which no image matches --frames {options.frames!r}"
    say(f"warning: left out: {what}{_such_as([item.shown for item in stray], shown)}")
    return fitting


def _fits(item: Found, table: Table, options: IngestOptions) -> bool:
    """Whether the pattern for all folders fits this one; one of its own, in videos.csv, has to."""
    own = bool(table.rows.get(item.name, {}).get("frames"))
    return own or options.frames is None or matches_any(item.path, frame_spec(item, table, options.model_dump()))


def _say_omissions(sources: Sources, say: Say, *, shown: bool) -> None:
    for omission in sources.omissions:
        names = _such_as([printable(path) for path in omission.paths], shown)
        say(f"warning: left out: {len(omission.paths)} {omission.what}{names}")


def _such_as(names: Sequence[str], shown: bool) -> str:
    return f": {_some(names)}" if shown else ""


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}" + ("" if len(things) == 1 else "s")


def aliases_of(options: IngestOptions) -> Pseudonyms | None:
    """The key of an ingest with --pseudonymize."""
    return None if options.pseudonymize is None else Pseudonyms.load(options.pseudonymize, options.out)


def _without_names(say: Say, found: Sequence[Found]) -> Say:
    names = {name for item in found for name in (item.name, item.path.name, item.path.stem, item.shown)}
    hidden = Withheld(names)
    return lambda line: say(hidden.text(line))


def _disguised(job: Job, aliases: Pseudonyms) -> Job:
    """The same work, without the name of its file or its case."""
    name = aliases.video(job.name)
    metadata = replace(job.metadata, case_id=aliases.case(job.metadata.case_id))
    return replace(job, name=name, shown=name, metadata=metadata, pseudonymous=True)


def _refuse_folder_name(item: Found, table: Table, options: IngestOptions) -> None:
    """Raises ConfigError where a folder's name would become the source: it may be a hospital's or a patient's."""
    if options.source is None and not table.rows.get(item.name, {}).get("source"):
        raise ConfigError(
            f"--pseudonymize: say --source (or give videos.csv a column source); else the folder's name "
            f"{item.default_source!r} would stand in the catalog"
        )


def _warn_of_strangers(job: Job, say: Say) -> None:
    """Images that the pattern of a frame folder passes over are not dropped in silence."""
    if job.frames is None:
        return
    if strangers := unmatched(job.path, job.frames):
        names = ", ".join(map(printable, strangers[:3])) + (" ..." if len(strangers) > 3 else "")
        where = f"{len(strangers)} images do not match --frames {job.frames.pattern!r} and are left out"
        say(f"warning: {job.name}: {where}" + ("" if job.pseudonymous else f": {names}"))


def _check_regex(regex: str, names: Sequence[str], say: Say) -> None:
    unmatched = [name for name in names if not matches(name, regex)]
    if len(unmatched) == len(names):
        raise ConfigError(f"--case-regex {regex!r} matches no video as a whole, such as {names[0]!r}")
    if unmatched:
        say(f"warning: --case-regex does not match {len(unmatched)} videos, each its own case: {_some(unmatched)}")


def _some(names: Sequence[str]) -> str:
    """The first five, and whether there are more."""
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _table(options: IngestOptions, sources: Sources, say: Say) -> Table:
    """videos.csv by the names of the found videos. Raises ConfigError for one asked for that describes none of them."""
    path = options.metadata or table_beside(options.sources)
    if path is None:
        say(f"no videos.csv: hospital and procedure stay empty; source is {sources.items[0].default_source!r}")
        return Table()
    table = read_table(path, Lookup([*sources.items, *sources.beside], options.prefix))
    # Folders beside videos that nobody says anything of are left out, and that is said.
    names = {item.name for item in (*sources.items, *(sources.beside if options.frames else ()))}
    if options.metadata is not None and not table.rows:
        raise ConfigError(
            f"{path} describes none of the videos: it names {', '.join(sorted(table.strangers)[:3]) or 'none'}, "
            f"found were {', '.join(sorted(names)[:3])}"
        )
    if options.metadata is None:
        say(f"metadata from {path}")
    for what, missing in (
        ("rows of videos.csv have no video", sorted(table.strangers)),
        ("videos have no row in videos.csv", sorted(names - set(table.rows))),
        ("columns of videos.csv are not used", list(table.unknown)),
    ):
        if missing:
            say(f"warning: {len(missing)} {what}: {_some(missing)}")
    return table


def _key(job: Job, say: Say, aliases: Pseudonyms | None) -> str:
    """What the frames of a video follow from: size and time stamp of its file or files, and the settings.

    It stands in the record, so a pseudonymous one is made of pseudonyms: names could be tried out against its hash.
    """
    alias = printable if aliases is None else aliases.file
    if job.frames is None:
        files = [_stamp(job.path, alias)]
    else:
        listed = list_frames(job.path, job.frames)
        times = f"{listed[0].time_s:.2f} s to {listed[-1].time_s:.2f} s"
        first, last = (printable(listed[i].path.name) for i in (0, -1))
        say(f"{job.name}: {len(listed)} files, " + ("" if aliases else f"{first} to {last} are ") + times)
        files = [_stamp(frame.path, alias) for frame in listed]
    spec = vars(job.frames) if job.frames else None
    tree = {"files": files, "settings": job.settings.identity(), "frames": spec}
    return fingerprint(tree | {"masks": job.masks, "excluded": repr(job.excluded)})


def _stamp(path: Path, alias: Callable[[str], str]) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return alias(path.name), -1, -1
    return alias(path.name), status.st_size, status.st_mtime_ns
