"""What weights have seen, for who exports them: recorded, sealed for publication, and told in a model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trocar.backbones.source import KEY, Record
from trocar.leakage.exposure import Exposure, by_identity, exposure_of
from trocar.leakage.identities import identities
from trocar.leakage.verdict import Verdict


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
            lines.append(f"| {who} | {source} | {count} | no | |")
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
