"""What the catalogs say of cases: where they are from, and whether they may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trocar.data.catalog import Catalog
from trocar.errors import TrocarError

FIELDS = ("source", "hospital", "procedure")


@dataclass(frozen=True)
class KnownCases:
    """`about`: `source/case` -> its source, hospital and procedure. `private`: ids of cases, without the source, that
    must not be shown. `unread`: catalogs that could not be opened -> why; nothing may be shown then.
    """

    about: Mapping[str, Mapping[str, str]]
    private: frozenset[str]
    unread: Mapping[str, str]

    @classmethod
    def of(cls, catalogs: Iterable[Path]) -> KnownCases:
        """Read the video tables of all catalogs; of a case with several videos the first one's."""
        about: dict[str, dict[str, str]] = {}
        private: set[str] = set()
        unread: dict[str, str] = {}
        for path in dict.fromkeys(catalogs):
            try:
                videos = Catalog.open(path).videos.to_pylist()
            except TrocarError as error:
                unread[str(path)] = str(error)
                continue
            for video in videos:
                name = f"{video['source']}/{video['case_id']}"
                about.setdefault(name, {field: str(video[field] or "") for field in FIELDS})
                if video["private"]:
                    private.add(str(video["case_id"]))
        return cls(about, frozenset(private), unread)

    def may_show(self, case: str) -> bool:
        """Whether frames and the id of a case, with or without its source, may stand in a report."""
        return not self.unread and case.rpartition("/")[2] not in self.private

    def named(self, cases: Iterable[str]) -> dict[str, str]:
        """Case -> what it is called in the report: itself, or a number for those that must not be shown."""
        ordered = list(dict.fromkeys(cases))
        hidden = [case for case in ordered if not self.may_show(case)]
        numbers = {case: f"private case {number}" for number, case in enumerate(hidden, start=1)}
        return {case: numbers.get(case, case) for case in ordered}
