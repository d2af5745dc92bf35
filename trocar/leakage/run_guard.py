"""The guard of a pretraining: keeps held-out cases out of its pool, and writes down what its weights have seen."""

from __future__ import annotations

from typing import Any

from trocar.backbones.history import Record
from trocar.data.selection.composition import Composition
from trocar.leakage.exposure import Exposure, Part, exposure_of, exposure_of_index
from trocar.leakage.guard import LeakSearch, compared, guarding_of
from trocar.leakage.weight_history import RecordedHistory
from trocar.privacy.private_data import Private
from trocar.ssl.pool_guard import TrainingData


class RunGuard(LeakSearch, RecordedHistory):
    """Implements `trocar.ssl.pool_guard.PoolGuard`; several runs may share one, on what it has found already."""

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
            "compared": list(guarding.found.compared),
            "found": guarding.records(),
        }

    def _own_part(self, data: TrainingData) -> Part:
        held_out, selection, catalog = self.held_out(data.composition), data.selection, data.catalog
        found = {} if held_out is None else compared(held_out, guarding_of(selection).kept, selection.cases)
        return Part(
            "pretraining",
            data.run.name,
            cases=selection.cases,
            catalog=str(catalog.root),
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
