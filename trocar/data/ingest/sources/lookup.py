"""Which video or folder a table means: by its name in the catalog or by that of its file, in either Unicode form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from trocar.data.ingest.sources.find import FoundSource, video_id
from trocar.data.media.folders import posix_name, without_ending
from trocar.errors import ConfigError


class Lookup:
    """Found videos by what a table may call them.

    Asked in this order: the path below the source, the video id, the path without its ending, the file's name, the
    same without its ending; the first that fits anything decides. `aliases` are further names, such as pseudonyms.
    """

    def __init__(
        self, items: Iterable[FoundSource], prefix: str = "", aliases: Mapping[str, FoundSource] | None = None
    ) -> None:
        items = list(items)
        self.names = [item.name for item in items]
        names: dict[str, list[FoundSource]] = defaultdict(list)
        for item in items:
            names[item.name].append(item)
            if prefix and item.name.startswith(prefix):
                names[item.name.removeprefix(prefix)].append(item)
        for name, item in (aliases or {}).items():
            names[name].append(item)
        self._tables = (
            (posix_name, _by(items, lambda path: path)),
            (_id, names),
            (_bare, _by(items, without_ending)),
            (posix_name, _by(items, lambda path: PurePosixPath(path).name)),
            (_bare, _by(items, lambda path: without_ending(PurePosixPath(path).name))),
        )

    def find(self, text: str, where: str) -> FoundSource | None:
        """The video that `text` means, None for none. Raises ConfigError, naming `where`, if it may be several."""
        for spelled, table in self._tables:
            fitting = table.get(spelled(text), [])
            if len(fitting) > 1:
                some = ", ".join(item.relative for item in fitting[:3]) + (" ..." if len(fitting) > 3 else "")
                raise ConfigError(f"{where}: {text!r} may be {some}: give its whole path")
            if fitting:
                return fitting[0]
        return None


def _by(items: Iterable[FoundSource], key: Callable[[str], str]) -> dict[str, list[FoundSource]]:
    table: dict[str, list[FoundSource]] = defaultdict(list)
    for item in items:
        table[key(item.relative)].append(item)
    return table


def _bare(text: str) -> str:
    return without_ending(posix_name(text))


def _id(text: str) -> str:
    bare = _bare(text)
    try:
        return video_id(bare, Path(text)) if bare else ""
    except ConfigError:
        return ""  # too long for the name of a video, so of none of these
