"""What weights have seen through all of their history: own pretraining, first weights, teachers, neighbour index.

It is written into the `config.json` of every exported backbone (`trocar` / `exposure`), sealed where it is published,
read back by name, and told in the model card.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import timm

from trocar.backbones.published.family import Published, Seen
from trocar.backbones.source import KEY, WEIGHTS, WEIGHTS_KEY, BackboneSource, Record, resolve
from trocar.backbones.weight_store import is_published_file
from trocar.core.files import sha256_of
from trocar.data.selection.neighbours import NeighbourTable
from trocar.errors import TrocarError
from trocar.leakage.identities import Case, identities, parse_numbers
from trocar.leakage.verdict import Finding, Verdict, by_severity

IMAGENET_TAG = re.compile(r"(?:^|[_.])in(?:1k|12k|21k|22k)(?:$|[_.])")
"""timm names in a tag what weights were trained on: these are photographs alone, where no other token is known."""
SEAL = "#"
INDEX = "neighbour index"
PICTURES_FOUND = "its pictures were found among the pretraining frames"
OTHER_DATA = re.compile(r"laion|openai|webli|lvd|yfcc|datacomp|dfn|metaclip|merged|sa1b|ig|swsl|ssl|seer|siglip|cc12m")


@dataclass(frozen=True)
class Part:
    """One training that left its mark on the weights.

    `role`: pretraining, published, init, teacher, neighbour index or probe (see `labels`). `seen`: published data sets,
    as a family's manifest names them. `cases`: `source/case` of a catalog. `catalog`, `fingerprint`: where their frames
    lie, and of which catalog; `left_out`: content hash of a video -> its frames, by number, that were no part of the
    training. `compared`: digest of a held-out case's pictures -> what comparing them with these cases found.
    `known` is False where nobody recorded what the training saw. `labels`: the labels of `cases` chose among several
    weights. In exports the names of cases are sealed (`sealed`).
    """

    role: str
    name: str
    seen: tuple[Seen, ...] = ()
    cases: tuple[str, ...] = ()
    catalog: str | None = None
    fingerprint: str | None = None
    compared: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    known: bool = True
    labels: bool = False

    def has(self, case: Case) -> bool:
        """Whether a case of a catalog is among `cases`, by its name or sealed."""
        return "/".join(case) in self.cases or _seal(case) in self.cases

    def sealed(self) -> Part:
        """For publication: names of cases that are not public become hashes, which still answer `has`."""
        table = identities()
        cases = [_split(case) for case in self.cases]
        names = tuple("/".join(c) if table.is_numbered(table.identify(*c)) else _seal(c) for c in cases)
        told = {key: tuple(replace(f, why=PICTURES_FOUND) for f in found) for key, found in self.compared.items()}
        return replace(self, cases=names, compared=told)

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_json` is the inverse."""
        tree = asdict(replace(self, compared={}))
        compared = {digest: [found.as_json() for found in items] for digest, items in self.compared.items()}
        left_out = {content: list(frames) for content, frames in self.left_out.items()}
        lists = {"seen": [asdict(one) for one in self.seen], "cases": list(self.cases), "left_out": left_out}
        return tree | lists | {"compared": compared}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Part:
        """From what `as_json` gave. Raises TypeError, KeyError or ValueError for anything else."""
        compared = {key: tuple(map(Finding.from_json, items)) for key, items in tree["compared"].items()}
        seen = tuple(Seen(**one) for one in tree["seen"])
        left_out = {content: tuple(frames) for content, frames in tree.get("left_out", {}).items()}
        lists = {"seen": seen, "cases": tuple(tree["cases"]), "left_out": left_out, "compared": compared}
        return cls(**{**tree, **lists})


@dataclass(frozen=True)
class Exposure:
    """All parts of a history; none for random weights."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def join(cls, histories: Iterable[Exposure]) -> Exposure:
        """The parts of all of them."""
        return cls(tuple(part for one in histories for part in one.parts))

    def as_role(self, role: str) -> Exposure:
        """The same as the history of something else's `role`, such as its init."""
        return Exposure(tuple(replace(part, role=_chain(role, part.role)) for part in self.parts))

    def sealed(self) -> Exposure:
        """The same without names of cases that are not public."""
        return Exposure(tuple(part.sealed() for part in self.parts))

    def as_json(self) -> list[dict[str, Any]]:
        """Values that JSON can hold; `from_json` is the inverse."""
        return [part.as_json() for part in self.parts]

    @classmethod
    def from_json(cls, tree: Iterable[Mapping[str, Any]]) -> Exposure:
        """From what `as_json` gave. Raises TypeError, KeyError or ValueError for anything else."""
        return cls(tuple(Part.from_json(part) for part in tree))


def exposure_of(name_or_path: str | Path) -> Exposure:
    """What the weights of this name have seen (names as for `load_backbone`).

    A backbone that says nothing of its training gives one part that is not known; so does, beside what is published
    of a name, a file that came in under it by hand. Raises ConfigError for a name that
    means nothing, TrocarError for a folder with a broken `config.json`.
    """
    source = resolve(name_or_path)
    if source.kind == "random":
        return Exposure()
    if source.kind == "module":
        return Exposure((Part("pretraining", source.name, known=False),))
    if source.kind == "published":
        assert source.entry is not None
        return _of_published(source.entry, source.file)
    if source.kind == "file":
        assert source.file is not None
        return Exposure((Part("pretraining", f"{source.name}@{source.file.name}", known=False),))
    return _of_timm(source) if source.kind == "timm" else _of_folder(source.folder)


def exposure_of_index(table: NeighbourTable) -> Exposure:
    """What a neighbour index has seen: its backbone chose which frames count as alike, and recorded its history.

    Raises TrocarError for a record that cannot be understood.
    """
    if KEY not in table.about:
        return Exposure((Part(INDEX, str(table.about.get("backbone", "unnamed")), known=False),))
    try:
        return Exposure.from_json(table.about[KEY]).as_role(INDEX)
    except (TypeError, KeyError, ValueError) as error:
        raise TrocarError(f"the neighbour index's record of its backbone cannot be understood: {error!r}") from None


def by_identity(part: Part, tests: Iterable[Case]) -> list[Finding]:
    """What names alone say of a part and these test cases, worst first; nothing means that names say clean.

    `unknown` for a case that may be another one's under another name: then only pictures can tell.
    """
    wanted = sorted(set(tests))
    if not part.known:
        return [Finding(Verdict.UNKNOWN, "", f"what {part.name} ({part.role}) was trained on is not recorded")]
    found = [finding for seen in part.seen for finding in _of_seen(part, seen, wanted)]
    return by_severity([*found, *_of_cases(part, wanted)])


def _of_published(entry: Published, file: Path | None) -> Exposure:
    """Its manifest; beside it a part that is not known, unless the file is known to be the published one."""
    told = Part("published", entry.name, entry.seen)
    if is_published_file(entry, file):
        return Exposure((told,))
    which = f"{entry.name}@{file.name}" if file is not None else f"the file kept as {entry.name}"
    return Exposure((told, Part("published", f"{which}, not known to be the published file", known=False)))


def _of_timm(source: BackboneSource) -> Exposure:
    config = timm.get_pretrained_cfg(source.name)
    tag = str(getattr(config, "tag", "") or source.name.partition(".")[2])
    if IMAGENET_TAG.search(tag) and not OTHER_DATA.search(tag):
        return Exposure((Part("published", f"timm:{source.name}", (Seen("imagenet1k", "train", labels=True),)),))
    return Exposure((Part("published", f"timm:{source.name}", known=False),))


def _of_folder(folder: Path) -> Exposure:
    path = folder / "config.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8")).get("trocar") or {}
        # Other weights that were laid beside this history have not lived it.
        if KEY in about and about.get(WEIGHTS_KEY) == sha256_of(folder / WEIGHTS):
            return Exposure.from_json(about[KEY])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise TrocarError(f"{path} cannot be understood: {error!r}") from None
    return Exposure((Part("pretraining", str(folder), known=False),))


def _chain(role: str, inner: str) -> str:
    return role if inner in ("pretraining", "published") else f"{role}'s {inner}"


def _of_seen(part: Part, seen: Seen, tests: list[Case]) -> list[Finding]:
    table = identities()
    if table.is_unrelated(seen.dataset):
        return []
    slug = table.dataset(seen.dataset) or seen.dataset
    inside = {test: [c for c in table.same(test) if c[0] == slug] for test in tests}
    members = [test for test in tests if inside[test]]
    listed = parse_numbers(seen.cases)
    if listed is not None:
        members = [test for test in members if any(_number(c) in listed for c in inside[test])]
    who = f"{part.name} ({part.role})"
    verdict, what = _certainty(seen, listed, len(members))
    found = [Finding(verdict, "/".join(test), f"{who} was trained on {slug}, {what}") for test in members]
    strange = [t for t in tests if not inside[t] and not table.differ((slug, "1"), t)]
    if listed is not None:
        strange += [t for t in tests if inside[t] and not table.is_numbered(inside[t][0])]
    return found + [
        Finding(Verdict.UNKNOWN, "/".join(test), f"nothing says whether {slug}, which {who} saw, has this operation")
        for test in strange
    ]


def _certainty(seen: Seen, listed: frozenset[int] | None, members: int) -> tuple[Verdict, str]:
    sure = Verdict.LABELS_SEEN if seen.labels else Verdict.SEEN
    if listed is not None or seen.cases in ("all", "train"):
        return sure, f"cases {seen.cases}"
    counted = re.match(r"(\d+) of (\d+)", seen.cases)
    # With 76 of 80 seen, at most 4 of any test cases were not.
    if counted and members > int(counted[2]) - int(counted[1]):
        return sure, f"{seen.cases}: {members} test cases cannot all be among those left out"
    return Verdict.SUSPECT, f"{seen.cases}: which is not known"


def _of_cases(part: Part, tests: list[Case]) -> list[Finding]:
    table = identities()
    own = {table.identify(*_split(case)): case for case in part.cases}
    found = []
    for test in tests:
        same = sorted(own[case] for case in table.same(test) if case in own)
        if part.has(test):
            same.append("/".join(test))
        if same and part.labels:
            why = f"labels of {same[0]}, the same operation, chose these weights ({part.role} {part.name})"
            found.append(Finding(Verdict.LABELS_SEEN, "/".join(test), why))
        elif same:
            why = f"{part.name} ({part.role}) was trained on {same[0]}, the same operation"
            found.append(Finding(Verdict.SEEN, "/".join(test), why))
        elif not all(table.differ(case, test) or (part.labels and case[0] == test[0]) for case in own):
            # A probe's data set is divided into cases by its owner: its test cases are other operations.
            why = f"names do not tell whether one of the cases of {part.name} ({part.role}) is this operation"
            found.append(Finding(Verdict.UNKNOWN, "/".join(test), why))
    return found


def _seal(case: Case) -> str:
    """`source/#16 hex digits`, the same for the same case everywhere."""
    if case[1].startswith(SEAL):
        return "/".join(case)
    return f"{case[0]}/{SEAL}{hashlib.sha256(chr(31).join(case).encode()).hexdigest()[:16]}"


def _number(case: Case) -> int:
    digits = re.fullmatch(r"\d+", case[1])
    return int(digits[0]) if digits else -1


def _split(text: str) -> Case:
    source, _, case = text.partition("/")
    return source, case


class RecordedHistory:
    """Implements `trocar.backbones.source.WeightHistory`."""

    def recorded(self, name_or_path: str | Path) -> Record:
        """`exposure_of` as JSON values; raises what it raises."""
        return exposure_of(name_or_path).as_json()

    def sealed(self, record: Iterable[Mapping[str, Any]]) -> Record:
        """`Exposure.sealed` of a record. Raises TypeError, KeyError or ValueError for what is none."""
        return Exposure.from_json(record).sealed().as_json()

    def section(self, about: Mapping[str, Any]) -> str:
        """The parts of the history and the verdict on every published data set, in Markdown."""
        exposure = _exposure(about)
        if exposure is None:
            return "Verdict on test data: unknown. What the weights have seen is not recorded.\n"
        return _parts_table(exposure) + _verdicts(exposure)


def _exposure(about: Mapping[str, Any]) -> Exposure | None:
    tree = about.get(KEY)
    try:
        return None if tree is None else Exposure.from_json(tree)
    except (TypeError, KeyError, ValueError):
        return None


def _parts_table(exposure: Exposure) -> str:
    lines = ["\n| part of the history | data set | cases | labels used | |", "|---|---|---|---|---|"]
    for part in exposure.parts:
        who = f"{part.role}: {part.name}"
        for seen in part.seen:
            used = "yes" if seen.labels else "no"
            lines.append(f"| {who} | {seen.dataset} | {seen.cases} | {used} | {seen.note} |")
        for source in sorted({case.partition("/")[0] for case in part.cases}):
            count = sum(case.startswith(f"{source}/") for case in part.cases)
            used = "yes, they chose the weights" if part.labels else "no"
            lines.append(f"| {who} | {source} | {count} | {used} | |")
        if not part.known:
            lines.append(f"| {who} | not recorded | | | |")
    return "\n".join(lines) + "\n\n"


def _verdicts(exposure: Exposure) -> str:
    """By names alone: what stands beside a score also rests on pictures, where they can be compared."""
    table = identities()
    lines = [
        "Verdict on test data, by the names of cases alone and over all cases of each data set. `trocar evaluate`",
        "gives it for the test cases of a score, and compares pictures where the pretraining frames are at hand:",
        "",
        "| data set | verdict |",
        "|---|---|",
    ]
    for slug in table.table.datasets:
        if cases := table.cases_of(slug):
            worst = Verdict.worst(f.verdict for part in exposure.parts for f in by_identity(part, cases))
            lines.append(f"| {slug} | {worst.value} |")
    compared = sum(len(part.compared) for part in exposure.parts)
    told = f"\nPictures of {compared} held-out cases were compared before training.\n" if compared else ""
    return "\n".join(lines) + "\n" + told
