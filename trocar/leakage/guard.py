"""Keep held-out cases out of a pretraining pool before anything is sampled, and record what its weights have seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trocar.backbones.source import Record
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.labelled_data import LabelledFolder, LeakConfig, Policy
from trocar.data.selection.composition import Composition
from trocar.data.selection.selection import Exclusion, Selection
from trocar.errors import ConfigError
from trocar.leakage.exposure import Exposure, Part, RecordedHistory, exposure_of, exposure_of_index
from trocar.leakage.search import SHOWN, FoundLeaks, HeldOut, Leak, find_leaks, show
from trocar.leakage.verdict import Finding, Verdict
from trocar.privacy.private_data import Private
from trocar.ssl.pool_guard import TrainingData

FEW_PICTURES = 2
"""A case of so many pictures leaves as a whole when one of them is a copy: the other is the same scene."""
KEPT = "kept in the pool"


def refuse(leaks: Iterable[Leak]) -> None:
    """Raises ConfigError that names case, task and the ways out, if a case of the pool is a held-out one."""
    seen = [leak for leak in leaks if leak.verdict is not Verdict.SUSPECT]
    if not seen:
        return
    ways = (
        "set leak.policy: exclude to leave them out before sampling, exclude the cases or the source yourself, take "
        "the data out of leak.against if it is not scored, or set leak.policy: allow, which writes the verdict beside "
        "every number"
    )
    cases = len({leak.test for leak in seen})
    raise ConfigError("\n".join([f"composition: the pool holds {cases} held-out case(s)", *_listed(seen), ways]))


@dataclass(frozen=True)
class Guarding(Exclusion):
    """What becomes of a pool: what was `found` in it leaves it, but for what was `kept`."""

    found: FoundLeaks = field(default_factory=FoundLeaks)
    kept: tuple[Leak, ...] = ()

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """The held-out cases that were found in the pool, whatever became of them."""
        return self.found.leaks

    def became(self, leak: Leak) -> str:
        """In words, what was done about it."""
        if leak in self.kept:
            return KEPT
        return "left out" if leak.pool in self.cases else f"{len(leak.rows)} picture(s) left out"

    def records(self) -> list[dict[str, object]]:
        """The leaks as JSON values, each with what `became` of it."""
        return [{**leak.as_json(), "became": self.became(leak)} for leak in self.leaks]

    def describe(self, policy: Policy) -> list[str]:
        """What was compared, found and done, in lines."""
        leaks = self.leaks
        lines = [f"leak guard: {line}" for line in self.found.compared]
        if not leaks:
            return [*lines, "leak guard: no held-out case is in the pool"]
        whole = [leak for leak in leaks if leak not in self.kept and leak.pool in self.cases]
        parts = [leak for leak in leaks if leak not in self.kept and leak.pool not in self.cases]
        if whole:
            lines.append(f"leak guard: {len({leak.pool for leak in whole})} case(s) left out before sampling:")
            lines += _listed(whole)
        if parts:
            cases = len({leak.pool for leak in parts})
            lines.append(f"leak guard: {len(self.rows)} picture(s) of {cases} case(s) left out before sampling:")
            lines += _listed(parts)
        if self.kept:
            why = "by leak.policy: allow" if policy == "allow" else "by leak.suspects: keep (look at them yourself)"
            lines.append(f"leak guard: {len({leak.pool for leak in self.kept})} case(s) kept in the pool, {why}:")
            lines += _listed(self.kept)
        return lines


def guard(found: FoundLeaks, held_out: HeldOut, config: LeakConfig, size: Mapping[str, int]) -> Guarding:
    """What `config` does about what was found; `size` is the number of frames of each case of the pool.

    Raises ConfigError under `policy: error` if a case or picture of the pool is a held-out one, and where suspects are
    to be kept and every held-out case whose pictures are known is one: nothing would be left to score on.
    """
    if config.policy == "error":
        refuse(found.leaks)
    if config.policy == "allow":
        return _noted(Guarding(found=found, kept=found.leaks), config.policy)
    kept = [leak for leak in found.leaks if leak.verdict is Verdict.SUSPECT and config.suspects == "keep"]
    _check_scored(kept, held_out)
    taken = [leak for leak in found.leaks if leak not in kept]
    rows: dict[str, set[int]] = {}
    for leak in taken:
        rows.setdefault(leak.pool, set()).update(leak.rows)
    whole = {leak.pool for leak in taken if not leak.rows}
    whole |= {case for case, of in rows.items() if size[case] <= FEW_PICTURES or len(of) >= size[case]}
    single = sorted(row for case, of in rows.items() if case not in whole for row in of)
    done = Guarding(frozenset(whole), np.array(single, np.int64), found=found, kept=tuple(kept))
    return _noted(done, config.policy)


def _noted(done: Guarding, policy: Policy) -> Guarding:
    return replace(done, notes=tuple(done.describe(policy)))


def _check_scored(kept: Sequence[Leak], held_out: HeldOut) -> None:
    pictured = {show(case) for case in held_out.pictures.cases}
    if pictured and pictured <= {leak.test for leak in kept}:
        head = "composition: the pool holds what looks like every held-out case, and leak.suspects: keep keeps it:"
        ways = "set leak.suspects: exclude, or leak.policy: allow, which writes the verdict beside every number"
        raise ConfigError("\n".join([head, *_listed(kept), ways]))


def _listed(leaks: Sequence[Leak]) -> list[str]:
    lines = [f"  {leak.pool} {_relation(leak)} {leak.test} ({'; '.join(leak.tasks)}): {leak.how}" for leak in leaks]
    return [*lines[:SHOWN], f"  and {len(leaks) - SHOWN} more"] if len(leaks) > SHOWN else lines


def _relation(leak: Leak) -> str:
    return "may be" if leak.verdict is Verdict.SUSPECT else "has pictures of" if leak.rows else "is"


def compared(held_out: HeldOut, kept: Sequence[Leak], pool: Collection[str]) -> dict[str, tuple[Finding, ...]]:
    """For the record of a run: digest of every held-out case with pictures -> what is `kept` of it in the pool."""
    kept = [leak for leak in kept if leak.pool in pool]
    return {
        digest: tuple(Finding(leak.verdict, leak.test, leak.how) for leak in kept if leak.test == "/".join(case))
        for case, digest in held_out.digests().items()
    }


class LeakSearch:
    """What compositions must keep out, and what their pools hold of it; each read and searched for once.

    For the planning of many compositions: it remembers labelled data as they were when they were first asked for.
    """

    def __init__(self, say: Say = lambda line: None) -> None:
        self.say = say
        self._held_out: dict[str, HeldOut] = {}
        self._leaks: dict[tuple[str, int, tuple[int, ...]], FoundLeaks] = {}

    def held_out(self, composition: Composition) -> HeldOut | None:
        """What must stay out of the pool; None where the composition names nothing.

        Raises ConfigError for an entry that means nothing.
        """
        config = composition.leak
        if not config.against:
            return None
        key = config.model_dump_json(include={"against"})
        if key not in self._held_out:
            from trocar.leakage.held_out_sources import held_out  # pandas and av, which no loader worker should pay for

            self._held_out[key] = held_out(config.against, self.say)
        return self._held_out[key]

    def leaks(self, catalog: Catalog, held_out: HeldOut, videos: Sequence[int]) -> FoundLeaks:
        """`find_leaks`; `held_out` is one that this search has read."""
        key = (catalog.fingerprint, id(held_out), tuple(videos))
        if key not in self._leaks:
            self._leaks[key] = find_leaks(catalog, held_out, videos)
        return self._leaks[key]

    def resolve(self, composition: Composition, catalog: Catalog, samples: int | None = None) -> Selection:
        """`Composition.resolve` without the held-out cases; raises what it raises.

        Raises ConfigError too where the pool holds a held-out case under `leak.policy: error`.
        """
        held_out = self.held_out(composition)
        if held_out is None:
            return composition.resolve(catalog, samples)

        def exclude(catalog: Catalog, videos: Sequence[int], sizes: Mapping[str, int]) -> Guarding:
            return guard(self.leaks(catalog, held_out, videos), held_out, composition.leak, sizes)

        return composition.resolve(catalog, samples, exclude)


def guarding_of(selection: Selection) -> Guarding:
    """What the guard found and did when it resolved this selection; nothing where there was nothing to keep out."""
    return selection.excluded if isinstance(selection.excluded, Guarding) else Guarding()


class RunGuard(LeakSearch, RecordedHistory):
    """Implements `trocar.ssl.pool_guard.PoolGuard`; several runs may share one, on what it has found already.

    `probed`: labelled data that the run is scored on while it trains. Their validation cases are held out besides what
    the composition names. `chooser` is the one of them whose labels choose among weights.
    """

    def __init__(
        self,
        say: Say = lambda line: None,
        probed: Sequence[LabelledFolder] = (),
        chooser: LabelledFolder | None = None,
    ) -> None:
        super().__init__(say)
        self.chooser = chooser
        self.probed = list({folder.data_alone().model_dump_json(): folder.data_alone() for folder in probed}.values())

    def held_out(self, composition: Composition) -> HeldOut | None:
        """What the composition names, and the scored cases of probes."""
        named = super().held_out(composition)
        if not self.probed:
            return named
        key = f"probed {composition.leak.model_dump_json(include={'against'})}"
        if key not in self._held_out:
            from trocar.leakage.held_out_sources import probed_cases

            parts = [probed_cases(folder, self.say) for folder in self.probed]
            self._held_out[key] = HeldOut.join([*([named] if named is not None else []), *parts])
        return self._held_out[key]

    def private(self, composition: Composition) -> Private:
        """What of the held-out data nothing of the run may show."""
        held_out = self.held_out(composition)
        return held_out.private if held_out is not None else Private()

    def exposure(self, data: TrainingData) -> Exposure:
        """What the trained weights will have seen, through their first weights, teachers and neighbour index too."""
        return Exposure.join(
            [
                Exposure((self._own_part(data),)),
                exposure_of(data.init).as_role("init"),
                *(exposure_of(name).as_role("teacher") for name in data.teachers),
                *([exposure_of_index(data.index)] if data.index is not None else []),
                *([self._of_chooser(self.chooser)] if data.chosen and self.chooser is not None else []),
            ]
        )

    def seen(self, data: TrainingData) -> Record:
        """`exposure` as JSON values."""
        return self.exposure(data).as_json()

    def report(self, data: TrainingData) -> dict[str, Any]:
        """What was compared, found and done about it, as JSON values for RUN/leaks.json."""
        guarding = guarding_of(data.selection)
        return {
            "format": 2,
            "leak": data.composition.leak.model_dump(mode="json"),
            "probed": [str(folder.data) for folder in self.probed],
            "compared": list(guarding.found.compared),
            "found": guarding.records(),
        }

    def _of_chooser(self, folder: LabelledFolder) -> Exposure:
        """The labels that chose the weights: of the training and validation cases of a probe."""
        from trocar.leakage.held_out_sources import probe_names

        return Exposure((Part("probe", folder.data.name, cases=probe_names(folder), labels=True),))

    def _own_part(self, data: TrainingData) -> Part:
        held_out, selection, catalog = self.held_out(data.composition), data.selection, data.catalog
        found = {} if held_out is None else compared(held_out, guarding_of(selection).kept, selection.cases)
        return Part(
            "pretraining",
            data.run.name,
            cases=selection.cases,
            catalog=catalog.location,
            fingerprint=catalog.fingerprint,
            compared=found,
            left_out=_left_out(data),
        )


def _left_out(data: TrainingData) -> dict[str, tuple[int, ...]]:
    """Content hash of a video -> its frames, by number, that left the pool as copies of held-out pictures."""
    left_out: dict[str, tuple[int, ...]] = {}
    for row in data.selection.excluded.rows.tolist():
        place = data.catalog.place(row)
        content = data.catalog.videos["content_hash"][int(data.catalog.frames["video"][row])].as_py()
        left_out[content] = (*left_out.get(content, ()), place["row"])
    return left_out
