"""What the fault suite counts: faults injected, survived, and what was lost, as the table of docs/reliability.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEY = "injection"
MARKS = ("<!-- the table of `make faults` -->", "<!-- end of the table -->")


@dataclass
class Injection:
    """One fault, put into one place at one moment. `lost` is None until the end was compared with what was promised."""

    fault: str
    into: str
    promise: str
    seed: int
    at: str
    test: str
    survived: bool = False
    lost: int | None = None

    def compare(self, promised: Mapping[Any, Any], found: Mapping[Any, Any]) -> None:
        """Counts as lost what was promised and is not there, or is not the same; asserts that it is nothing.

        An undisturbed run's files, rows or tensors by name, for example. What `found` has beyond it is wrong too, but
        not lost.
        """
        differing = sorted(str(key) for key in promised if key not in found or not _equal(promised[key], found[key]))
        self.lost = (self.lost or 0) + len(differing)
        assert promised, "nothing was promised, so nothing was compared"
        beyond = sorted(map(str, found.keys() - promised.keys()))
        assert (differing, beyond) == ([], []), f"lost: {differing}, beyond it: {beyond}"


def _equal(promised: Any, found: Any) -> bool:
    return bool(type(promised) is type(found) and promised == found)


class Injector:
    """Makes the injections of one test; they travel with its report to whoever prints the table."""

    def __init__(self, test: str, properties: list[tuple[str, object]]) -> None:
        self.test, self.properties = test, properties

    @contextmanager
    def __call__(self, fault: str, into: str, promise: str, *, seed: int = 0, at: str = "") -> Iterator[Injection]:
        """A fault whose survival is what happens inside: it ends without an error after a comparison.

        `fault` and `into` name the row of the table ("SIGKILL", "trainer"), `promise` says in a few words what holds
        after it, `at` the moment ("step 3", "0.41 s").
        """
        injection = Injection(fault, into, promise, seed, at, self.test)
        print(f"{fault} into {into}, seed {seed}, at {at or 'the start'}")
        try:
            yield injection
            assert injection.lost is not None, "the end was compared with nothing"
            injection.survived = True
        finally:
            self.properties.append((KEY, json.dumps(asdict(injection))))


def read(properties: Iterable[tuple[str, object]]) -> list[Injection]:
    """The injections among the properties of a test's report."""
    return [Injection(**json.loads(str(value))) for key, value in properties if key == KEY]


def table(injections: Iterable[Injection]) -> list[str]:
    """Markdown: a row per fault and place with its counts, and the sum."""
    rows: dict[tuple[str, str], list[Injection]] = {}
    for injection in injections:
        rows.setdefault((injection.into, injection.fault), []).append(injection)
    lines = ["| into | fault | what holds | injected | survived | lost | shown by |", "|---|---|---|--:|--:|--:|---|"]
    for (into, fault), group in sorted(rows.items()):
        promises = "; ".join(dict.fromkeys(i.promise for i in group))
        tests = ", ".join(dict.fromkeys(f"`{i.test}`" for i in group))
        lines.append(f"| {into} | {fault} | {promises} | {_counts(group)} | {tests} |")
    return [*lines, f"| **all** | | | {_counts([i for group in rows.values() for i in group])} | |"]


def _counts(group: list[Injection]) -> str:
    return f"{len(group)} | {sum(i.survived for i in group)} | {sum(i.lost or 0 for i in group)}"


def write_table(page: Path, lines: list[str]) -> None:
    """Puts the table between the marks of a page of the docs."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + after]), encoding="utf-8")


def every_third(names: Iterable[str], third: int) -> set[str]:
    """The part of `names` that a run of a third has, `third` 0, 1 or 2, whatever their order."""
    return set(sorted(names)[third::3])
