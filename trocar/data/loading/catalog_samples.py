"""Frames of a catalog as WebDataset samples, for pipelines that others wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.media.still import Jpeg
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.selection.selection import Selection
from trocar.errors import TrocarError

_BATCH = 256
_ABOUT = ("name", "case_id", "part", "source", "hospital", "procedure")

Sample = dict[str, Any]
"""`__key__` and `__url__` (text), `jpg` and `json` (bytes), as a WebDataset reader gives them before any decoding."""


class CatalogSamples(IterableDataset[Sample]):
    """One pass over the frames of a selection: in catalog order, or with `seed` in the order of a plan of one epoch.

    The first stage of a `webdataset.DataPipeline`, or a data set for torch's DataLoader. Its workers share the frames,
    so no `split_by_worker` belongs behind it; of several ranks, `rank` of `world` takes every `world`-th frame.
    """

    def __init__(
        self, catalog: Catalog, selection: Selection, *, seed: int | None = None, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__()
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        self.catalog, self.selection, self.seed = catalog, selection, seed
        self.rank, self.world = rank, world
        self._plan = None if seed is None else _plan(selection, seed)

    def __len__(self) -> int:
        """Frames of this rank."""
        return len(range(self.rank, self._total, self.world))

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this rank and of this worker process.

        Raises TrocarError for a frame whose bytes are not what was ingested; with `seed` another takes its place.
        """
        worker = get_worker_info()
        parts = self.world * (1 if worker is None else worker.num_workers)
        start = self.rank + self.world * (0 if worker is None else worker.id)
        reader, about = Reader(self.catalog), _SampleMaker(self.catalog)
        if self._plan is None:
            own = self._rows[start::parts]
            for place, row in enumerate(own.tolist()):
                if place % _BATCH == 0 and reader.asks_ahead:
                    reader.order(own[place : place + _BATCH, None])
                try:
                    yield about.sample(row, reader.read(row))
                except BadContentError as error:
                    raise TrocarError(f"row {row} ({self.catalog.place(row)}): {error}; ingest it again") from None
            return
        rows, of = self._rows, -1
        for position in range(start, self._total, parts):
            step, slot = divmod(position, self._plan.batch)
            if step != of:
                rows, of = self._plan.rows(step), step
                if reader.asks_ahead:
                    reader.order(rows[slot::parts, None])
            found: list[Jpeg] = []
            row, _ = reader.deliver(self._plan, step, slot, int(rows[slot]), partial(_keep, found))
            yield about.sample(row, bytes(found[-1]))

    @property
    def _rows(self) -> I64:
        runs = [pool.runs.rows(np.arange(len(pool), dtype=np.int64)) for pool in self.selection.pools]
        return np.sort(np.concatenate(runs)) if runs else np.empty(0, np.int64)

    @property
    def _total(self) -> int:
        return sum(len(pool) for pool in self.selection.pools)


def _keep(found: list[Jpeg], row: int, jpeg: Jpeg) -> None:
    found.append(jpeg)


def of_composition(catalog: Catalog, wanted: Selection | Composition | None) -> Selection:
    """A selection as it is, a composition resolved, None everything. Raises ConfigError as `Composition.resolve`."""
    if isinstance(wanted, Selection):
        return wanted
    return (Composition(curate="none") if wanted is None else wanted).resolve(catalog)


def _plan(selection: Selection, seed: int) -> Plan:
    """The order follows from the seed alone: positions are numbered through the batches."""
    carried = [int(len(pool) / pool.share) for pool in selection.pools if pool.share > 0]
    return Plan(selection, max(1, min([_BATCH, *carried])), seed)


class _SampleMaker:
    """What is said of each frame beside its picture."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        columns = catalog.videos.select([*_ABOUT, "first_row"]).to_pylist()
        self.videos = columns

    def sample(self, row: int, jpeg: bytes) -> Sample:
        frames = self.catalog.frames
        video = self.videos[int(frames["video"][row])]
        number = row - video["first_row"]
        said = {
            "video": video["name"],
            "time_s": round(float(frames["time_s"][row]), 6),
            **{name: video[name] for name in _ABOUT[1:]},
        }
        return {
            "__key__": f"{video['name']}-{number:07d}",
            "__url__": self._address(int(frames["shard"][row])),
            "jpg": jpeg,
            "json": json.dumps(said, sort_keys=True).encode(),
        }

    def _address(self, shard: int) -> str:
        store = self.catalog.store
        return (
            str(self.catalog.shard_paths[shard])
            if store is None
            else f"{store.address}/{self.catalog.shard_names[shard]}"
        )
