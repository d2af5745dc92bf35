"""Which published cases are the same operation: the table `identities.yaml`, every row with its source.

A case is (data set, case). A case of a catalog becomes a published one by two rules: the catalog's `source` is a data
set of the table or one of its names (spelling aside: `Cholec-80` is `cholec80`), and the whole case id is a number that
exists there, alone or as the data set's files spell it: source `cholec80`, case `video02`, `02` or `2` is (`cholec80`,
`2`). All others stay exactly as they are: `002` and `2` of a hospital are two cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter

from trocar.core.config import Config
from trocar.errors import ConfigError, nearest

Case = tuple[str, str]
TABLE = Path(__file__).with_name("identities.yaml")


class Dataset(Config):
    """One data set of the table; the file's head says what the fields mean."""

    source: str = Field(description="the publication or file that this entry is taken from")
    names: list[str] = Field(default=[], description="further names by which folders and catalogs call the data set")
    cases: str | None = Field(
        default=None,
        description="regular expression on the name of a video or case; its group `n` is the number, `s` the series "
        "it counts in",
    )
    numbers: str | int | None = Field(
        default=None, description="the numbers that exist, such as `1-80` or `1,2,4`; null: not stated"
    )
    numbering: str | None = Field(
        default=None, description="the data set whose numbers it carries: an equal number is an equal operation"
    )
    series: bool = Field(default=False, description="a number alone, without its series, is no case")
    centre: list[str] = Field(
        default=[],
        description="hospitals that recorded it; data sets without a common centre share no operation; empty: not "
        "stated",
    )
    procedure: list[str] = Field(
        default=[],
        description="kinds of operation in it; data sets without a common procedure share no operation; empty: not "
        "stated",
    )


class Overlap(Config):
    """Lists of equal length: entry by entry the same operation."""

    cases: dict[str, str] = Field(
        min_length=2,
        max_length=2,
        description="data set -> its cases, such as `1-5,7`; the two lists are equal entry by entry",
    )
    source: str = Field(description="the publication or file that says so")


class Unrelated(Config):
    """A data set without operations."""

    name: str = Field(description="the data set")
    source: str = Field(description="the publication or file that says so")


class IdentityTable(Config):
    """The whole file."""

    datasets: dict[str, Dataset] = Field(description="name in this table -> what is known of the data set")
    listed: list[list[str]] = Field(
        description="groups of data sets of which every common operation is in `overlaps` or follows from `numbering`"
    )
    overlaps: list[Overlap] = Field(description="pairs of lists of cases that are the same operations")
    unrelated: list[Unrelated] = Field(description="data sets without operations")


@dataclass(frozen=True)
class Identities:
    """The table, ready for questions."""

    table: IdentityTable
    _same: dict[Case, frozenset[Case]] = field(default_factory=dict, repr=False)
    _names: dict[str, str] = field(default_factory=dict, repr=False)
    _forms: dict[str, re.Pattern[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for slug, dataset in self.table.datasets.items():
            self._names.update({_plain(name): slug for name in (slug, *dataset.names)})
            self._forms[slug] = _form(slug, dataset)
        for case, members in _components(self._pairs()).items():
            # A number that only a borrower has (CholecT50's 92 is not in Cholec80) names nothing where it is borrowed.
            real = {m for m in members if _exists(self.table.datasets[m[0]], int(m[1]))}
            self._same[case] = frozenset(real | {case})

    def dataset(self, name: str) -> str | None:
        """The slug of a data set by any of its names; None where the table has none."""
        return self._names.get(_plain(name))

    def is_unrelated(self, name: str) -> bool:
        """Whether a data set holds no operations at all."""
        return _plain(name) in {_plain(row.name) for row in self.table.unrelated}

    def identify(self, source: str, case: str) -> Case:
        """The published case that (source, case) is by the rules above, else the two as they are."""
        slug = self.dataset(source)
        if slug is None:
            return source, case
        about = self.table.datasets[slug]
        match = self._forms[slug].fullmatch(case.strip())
        if match is None:
            return slug, case
        found = match.groupdict()
        number = int(found.get("n") or found["plain"])
        if not _exists(about, number):
            return slug, case
        return slug, (found.get("s") or "").lower() + str(number)

    def is_numbered(self, case: Case) -> bool:
        """Whether it is a case as `identify` gives it: of a data set of the table, and by its number there."""
        slug, name = case
        match = re.fullmatch(r"([a-z]+_?)?(0|[1-9]\d*)", name)
        if slug not in self.table.datasets or match is None:
            return False
        about = self.table.datasets[slug]
        return _exists(about, int(match[2])) and (match[1] is not None or not about.series)

    def same(self, case: Case) -> frozenset[Case]:
        """All published cases that are this operation, itself included."""
        return self._same.get(case, frozenset({case}))

    def closure(self, cases: Iterable[Case]) -> frozenset[Case]:
        """All published cases that are one of these operations."""
        return frozenset(one for case in cases for one in self.same(case))

    def differ(self, one: Case, other: Case) -> bool:
        """Whether two cases are known to be different operations, by the table alone."""
        if other in self.same(one):
            return False
        if one[0] == other[0] or any(one[0] in group and other[0] in group for group in self.table.listed):
            return self.is_numbered(one) and self.is_numbered(other)
        return self.are_apart(one[0], other[0])

    def are_apart(self, first: str, second: str) -> bool:
        """Whether two data sets can share no operation: other centres, or other procedures, as far as stated."""
        one, other = (self.table.datasets.get(name) for name in (first, second))
        if one is None or other is None or first == second:
            return False
        return _disjoint(one.centre, other.centre) or _disjoint(one.procedure, other.procedure)

    def cases_of(self, slug: str) -> frozenset[Case]:
        """The numbered cases of a data set; empty where its numbers are not in the table."""
        about = self.table.datasets[slug]
        return frozenset() if about.numbers is None else frozenset((slug, str(n)) for n in numbers(str(about.numbers)))

    def named(self, text: str) -> frozenset[Case]:
        """`cholec80`, `cholec80/41-80` or `cholec80/video41`: the cases of a published data set.

        Raises ConfigError for another data set, for numbers that it does not have, or for all cases of one whose
        numbers the table lacks: they would hold nothing out.
        """
        name, slash, which = text.partition("/")
        slug = self.dataset(name)
        if slug is None:
            known = sorted(self.table.datasets)
            raise ConfigError(f"no published data set {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        if slash:
            listed = parse_numbers(which)
            cases = {(slug, str(n)) for n in listed} if listed else {self.identify(slug, which)}
            strange = sorted(n for _, n in cases if listed and not self.is_numbered((slug, n)))
            if strange:
                about = self.table.datasets[slug]
                has = "names its cases by series and number" if about.series else f"has the numbers {about.numbers}"
                raise ConfigError(f"{text!r}: {slug} has no case {', '.join(strange)}; it {has}")
            return frozenset(cases)
        found = self.cases_of(slug)
        if not found:
            example = f"{slug}/bbp01" if self.table.datasets[slug].series else f"{slug}/1-20"
            raise ConfigError(f"which cases {slug} has is not in the table; name them, such as {example}")
        return found

    def _pairs(self) -> Iterator[tuple[Case, Case]]:
        for slug, dataset in self.table.datasets.items():
            if dataset.numbering is not None:
                every = dataset.numbers or _join(self.table.datasets, dataset.numbering)
                yield from (((slug, str(n)), (dataset.numbering, str(n))) for n in numbers(str(every)))
        for row in self.table.overlaps:
            (one, these), (other, those) = row.cases.items()
            for a, b in zip(_in_order(these), _in_order(those), strict=True):
                yield (one, a), (other, b)


@cache
def identities() -> Identities:
    """The table that Trocar ships."""
    tree = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return Identities(TypeAdapter(IdentityTable).validate_python(tree))


def numbers(text: str) -> frozenset[int]:
    """`1-3,7` -> {1, 2, 3, 7}. Raises ConfigError for anything else."""
    found = parse_numbers(text)
    if found is None:
        raise ConfigError(f"{text!r}: expected numbers such as 1-40 or 1,2,7-9")
    return found


def parse_numbers(text: str) -> frozenset[int] | None:
    """The same; None where the text is no list of numbers."""
    if not re.fullmatch(r"\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*", text):
        return None
    return frozenset(int(n) for n in _in_order(text))


def _in_order(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += [str(n) for n in range(int(low), int(high or low) + 1)]
    return found


def _form(slug: str, dataset: Dataset) -> re.Pattern[str]:
    """How the names of a data set's cases are spelled, with or without a file's ending.

    Group `n` or `plain` is the number, `s` the series.
    """
    names = "|".join(r"[\s_.-]*".join(_plain(name)) for name in (slug, *dataset.names))
    words = rf"(?:(?:{names})[\s_.-]+)?(?:v(?:id(?:eo)?)?[\s_.-]*)?"
    own = [dataset.cases] if dataset.cases else []
    forms = "|".join([*own, words + r"(?P<plain>\d+)"])
    return re.compile(rf"(?:{forms})(?:\.[a-z][a-z0-9]{{1,3}})?", re.IGNORECASE)


def _join(datasets: dict[str, Dataset], numbering: str) -> str:
    """Every number that a data set of one numbering has."""
    using = [d for slug, d in datasets.items() if numbering in (slug, d.numbering)]
    return ",".join(str(d.numbers) for d in using if d.numbers is not None)


def _components(pairs: Iterable[tuple[Case, Case]]) -> dict[Case, set[Case]]:
    group: dict[Case, set[Case]] = {}
    for one, other in pairs:
        joined = group.get(one, {one}) | group.get(other, {other})
        for case in joined:
            group[case] = joined
    return group


def _exists(about: Dataset, number: int) -> bool:
    return about.numbers is None or number in numbers(str(about.numbers))


def _disjoint(these: list[str], those: list[str]) -> bool:
    return bool(these and those) and not set(these) & set(those)


def _plain(name: str) -> str:
    """For comparing names only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
