"""What a pretraining pool must not hold: test and validation cases, by name and by their pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trocar.leakage.identities import Case
from trocar.leakage.pictures import Pictures
from trocar.privacy.private_data import Private


@dataclass(frozen=True)
class HeldOut:
    """Cases of the data that models are scored on: `why` says for each of them which data and tasks it belongs to.

    `pictures` are the hashed frames of those whose pictures are at hand; the others are known by name only. `private`:
    what of them must not be shown.
    """

    why: Mapping[Case, tuple[str, ...]] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=lambda: Pictures.join([]))
    private: Private = field(default_factory=Private)

    @property
    def cases(self) -> frozenset[Case]:
        """All of them."""
        return frozenset(self.why)

    def digests(self) -> dict[Case, str]:
        """16 hex digits over the hashed frames of each case with pictures: equal pictures, equal digits."""
        frames = self.pictures
        found: dict[Case, str] = {}
        for case in sorted(set(frames.cases)):
            videos = [i for i, of in enumerate(frames.cases) if of == case]
            rows = np.isin(frames.video, videos)
            found[case] = hashlib.sha256(np.ascontiguousarray(frames.hashes[rows]).tobytes()).hexdigest()[:16]
        return found

    @staticmethod
    def join(parts: Sequence[HeldOut]) -> HeldOut:
        """All of them together."""
        why: dict[Case, tuple[str, ...]] = {}
        for part in parts:
            for case, reasons in part.why.items():
                why[case] = tuple(dict.fromkeys((*why.get(case, ()), *reasons)))
        pictures = Pictures.join([part.pictures for part in parts])
        return HeldOut(why, pictures, Private.join(part.private for part in parts))
