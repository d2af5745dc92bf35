"""What the catalogs say of cases: where they are from, and whether they may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trocar.data.catalog.catalog import Catalog
from trocar.errors import TrocarError
from trocar.privacy.aliases import Aliases
from trocar.study.private_names import marked_in_study
from trocar.study.results import StudyResults

FIELDS = ("source", "hospital", "procedure")


@dataclass(frozen=True)
class KnownCases:
    """`about`: `source/case` -> its source, hospital and procedure. `private`: ids of cases, without the source, that
    must not be shown. `unread`: catalogs that could not be opened -> why; nothing may be shown then. `hidden`: names
    that must not be read anywhere on the page. `shares`: private cases are shown, because the study says so.
    """

    about: Mapping[str, Mapping[str, str]]
    private: frozenset[str]
    unread: Mapping[str, str]
    hidden: Aliases = field(default_factory=Aliases)
    shares: bool = False

    @classmethod
    def of_study(cls, results: StudyResults) -> KnownCases:
        """All catalogs of a study, and what its labelled data and stages mark. Raises as `marked_in_study`."""
        shards = [task.shards for task in results.study.tasks.values() if task.shards is not None]
        known = cls.of([results.study.catalog, *shards])
        lock = results.lock.model_copy(update={"study": results.study})
        if results.study.privacy.share_frames:
            told = known.private or marked_in_study(lock, results.store).cases
            return replace(known, private=frozenset(), unread={}, shares=bool(told))
        private = marked_in_study(lock, results.store)
        return replace(known, private=known.private | private.cases, hidden=private.hidden)

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
        """Case -> what it is called in the report: itself, or the alias of one that must not be shown, with its
        source if it comes with one.
        """
        listed = list(dict.fromkeys(cases))
        private = {case.rpartition("/")[2] for case in listed if not self.may_show(case)}
        # A catalog that cannot be read makes private what has no alias yet.
        aliases = Aliases({*private, *self.hidden.names}, private | self.hidden.cases, self.hidden.table)
        return {case: case if self.may_show(case) else _alias(case, aliases) for case in listed}


def _alias(case: str, aliases: Aliases) -> str:
    source, _, name = case.rpartition("/")
    return f"{aliases.of(name)} of {source}" if source else aliases.of(name)
