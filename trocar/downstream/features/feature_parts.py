"""Features of one backbone by several processes: parts of whole batches, joined to the file that one process writes.

A network's features of a frame may differ in the last bit with the batch that it is computed in. So parts begin where
batches of one process begin, and every batch has the same frames whoever computes it. Where parts begin follows from
the data and the batch, not from how many processes there are: what an interrupted extraction has finished is of use to
the next one, whatever its number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trocar.backbones.preprocess import describe_backbone, fit_input_size
from trocar.core.files import writing
from trocar.downstream.features.feature_cache import (
    Encoder,
    Features,
    drop_parts,
    extracted,
    features_path,
    keep_features,
    read_features,
)
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.work_share import WorkShare
from trocar.errors import TrocarError

PARTS, MOST_BATCHES = 64, 16
"""About so many parts, which even a few dozen processes divide evenly; and of how many batches at most, so that little
is lost where one is killed."""


def extract_together(encoders: Iterable[Encoder], share: WorkShare) -> None:
    """Have the features of all encoders, each with a network, in the cache, by all ranks of `share` together.

    To be called by every rank with the same encoders, once. Raises TrocarError as `extract`, and where a rank ends too
    early or doesn't see what others wrote.
    """
    found = {parts.path: parts for parts in map(FeatureParts.of, encoders)}
    work = [parts for path, parts in found.items() if read_features(path) is None]
    missing = [parts.missing() for parts in work]
    share.wait("parts listed")  # before anyone makes one: all divide the same list
    for parts, places in zip(work, missing, strict=True):
        parts.extract(share.of(places), share)
    share.wait("parts extracted")
    for parts in work[share.rank :: share.size]:
        parts.join(share)
    share.wait("parts joined")
    for path in found:
        share.see(path)


@dataclass(frozen=True)
class FeatureParts:
    """Features of all frames of an `encoder`, at `path` when they are whole, until then in files beside it."""

    encoder: Encoder
    path: Path

    @staticmethod
    def of(encoder: Encoder) -> FeatureParts:
        """Of an encoder with a network; its weights are loaded to know where."""
        assert encoder.network is not None
        return FeatureParts(encoder, features_path(encoder.network(), encoder.frames, encoder.size, encoder.precision))

    @property
    def rows(self) -> list[Ints]:
        """The rows of the table that each part has, in order: whole batches, but for the end of the last one."""
        count, batch = len(self.encoder.frames.data), self.encoder.frames_at_once
        length = batch * min(MOST_BATCHES, -(-count // (PARTS * batch)))
        return [np.arange(start, min(start + length, count)) for start in range(0, count, length)]

    def place(self, rows: Ints) -> Path:
        """Where the part of these rows is kept; parts of another batch have other names."""
        return self.path.with_name(f".{self.path.name}.{self.encoder.frames_at_once}-{rows[0]}-{len(rows)}")

    def missing(self) -> list[Ints]:
        """The rows of each part that is not there, or damaged."""
        return [rows for rows in self.rows if self._read(rows) is None]

    def extract(self, wanted: Sequence[Ints], share: WorkShare) -> None:
        """Compute and write these parts, which are in order. Raises TrocarError as `extract`, or where another rank
        has ended.
        """
        if not wanted:
            return
        encoder = self.encoder
        assert encoder.network is not None
        model = fit_input_size(encoder.network(), encoder.size)
        stream = extracted(
            model,
            encoder.pixels,
            describe_backbone(model),
            np.concatenate(wanted),
            batch=encoder.batch,
            device=encoder.device,
            precision=encoder.precision,
            whose=encoder.name,
        )
        with closing(stream):
            for rows, features in zip(wanted, _cut(stream, [len(rows) for rows in wanted]), strict=True):
                with writing(self.place(rows)) as file:
                    np.save(file, features)
                share.check()

    def join(self, share: WorkShare) -> None:
        """Write the whole file and drop the parts. Raises TrocarError for one that cannot be seen here."""
        parts = []
        for rows in self.rows:
            share.see(self.place(rows), self.path)
            part = self._read(rows)
            if part is not None:
                parts.append(part)
            elif read_features(self.path) is None:
                raise TrocarError(f"{self.place(rows)} is damaged; the same command makes it anew")
        if len(parts) == len(self.rows):
            keep_features(self.path, np.concatenate(parts))
        else:  # another evaluation with this cache has been faster, and has dropped what it joined
            drop_parts(self.path)

    def _read(self, rows: Ints) -> Features | None:
        found = read_features(self.place(rows))
        return found if found is not None and len(found) == len(rows) else None


def _cut(stream: Iterator[Features], lengths: Sequence[int]) -> Iterator[Features]:
    """Pieces of these lengths of what comes in pieces of others."""
    held: list[Features] = []
    for length in lengths:
        while sum(map(len, held)) < length:
            held.append(next(stream))
        whole = np.concatenate(held)
        yield whole[:length]
        held = [whole[length:]]
