"""Step -> catalog rows of the global batch, computed from the seed and the step number alone.

Position n = step x B + slot. A period table deals positions to pools in exact proportion; draw k of a pool of N rows is
row `permutation[k div N](k mod N)`: every row once per epoch, in an order that no worker or rank can change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from trocar.core.random import I64, Permutation, below, make_key, words
from trocar.data.selection.selection import Pool, Selection
from trocar.errors import ConfigError

PERIOD = 4096
Shuffle = Literal["global", "window"]

BLOCK = 256  # rows that stay together under `window`: about 8 MB of consecutive JPEG
WINDOW_BATCHES = 64


@dataclass(frozen=True)
class Plan:
    """The order of a run: `batch` rows per step, for as many steps as anyone asks.

    `shuffle="window"` keeps reads local for network file systems: blocks of consecutive rows are permuted, and rows
    only within windows of at least 64 batches.
    """

    selection: Selection
    batch: int
    seed: int
    shuffle: Shuffle = "global"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1, got {self.batch}")
        for pool, quota in zip(self.selection.pools, self._quotas, strict=True):
            self._check(pool, int(quota))

    def rows(self, step: int) -> I64:
        """int64[B]: catalog rows of the anchors of the global batch of `step`, from which its other frames follow."""
        position = step * self.batch + np.arange(self.batch, dtype=np.int64)
        period, place = np.divmod(position, PERIOD)
        out = np.empty(self.batch, dtype=np.int64)
        for index in np.unique(self._table[place]):
            mine = self._table[place] == index
            draw = period[mine] * self._quotas[index] + self._rank[place[mine]]
            out[mine] = self._draw(int(index), draw)
        return out

    def replacement(self, step: int, slot: int, attempt: int) -> int:
        """The row that stands in for the bad frame of (step, slot), from the same pool; attempt = 0, 1, 2, ..."""
        pool = self.selection.pools[self._table[(step * self.batch + slot) % PERIOD]]
        bits = words(make_key(self.seed, "replacement"), 1, step, slot, attempt)
        return int(pool.runs.rows(below(bits, len(pool)))[0])

    def epochs(self, steps: int) -> dict[str, float]:
        """How often each source's frames have been seen after `steps` steps."""
        seen = {
            pool.name: self.batch * steps * int(quota) / PERIOD / len(pool)
            for pool, quota in zip(self.selection.pools, self._quotas, strict=True)
        }
        if set(seen) == {"all"}:
            return dict.fromkeys(self.selection.source_rows, seen["all"])
        return seen

    @cached_property
    def _quotas(self) -> I64:
        return largest_remainder([pool.share for pool in self.selection.pools], PERIOD)

    @cached_property
    def _table(self) -> I64:
        """Pool of each place of the period, every pool spread evenly: its j-th entry lies near (j + 1/2) / quota."""
        ideal = [(np.arange(q) + 0.5) / q for q in self._quotas]
        pool = np.repeat(np.arange(len(ideal)), self._quotas)
        table: I64 = pool[np.argsort(np.concatenate(ideal), kind="stable")]
        return table

    @cached_property
    def _rank(self) -> I64:
        """How many earlier places of the period belong to the same pool."""
        rank = np.empty(PERIOD, dtype=np.int64)
        for index, quota in enumerate(self._quotas):
            rank[self._table == index] = np.arange(quota)
        return rank

    def _draw(self, index: int, draw: I64) -> I64:
        pool = self.selection.pools[index]
        epoch, place = np.divmod(draw, len(pool))
        out = np.empty_like(draw)
        for e in np.unique(epoch):
            mine = epoch == e
            out[mine] = pool.runs.rows(self._shuffled(pool, int(e), place[mine]))
        return out

    def _shuffled(self, pool: Pool, epoch: int, place: I64) -> I64:
        n = len(pool)
        if self.shuffle == "global":
            return _permutation(n, self.seed, pool.name, epoch)(place)
        return self._windowed(pool, epoch, place)

    def _windowed(self, pool: Pool, epoch: int, place: I64) -> I64:
        n = len(pool)
        blocks = max(1, -(-WINDOW_BATCHES * self.batch // BLOCK))
        size = blocks * BLOCK
        window, inside = np.divmod(place, size)
        mixed = np.empty_like(place)
        for w in np.unique(window):
            mine = window == w
            width = min(size, n - int(w) * size)
            mixed[mine] = _permutation(width, self.seed, pool.name, epoch, int(w))(inside[mine])
        slot, offset = np.divmod(window * size + mixed, BLOCK)
        whole = n // BLOCK
        block = slot.copy()
        if whole:
            moved = slot < whole
            block[moved] = _permutation(whole, self.seed, pool.name, epoch, "blocks")(slot[moved])
        # The rows left over after the last whole block would always come last: a turn per epoch moves the seam.
        turn = int(below(words(make_key(self.seed, pool.name, "turn"), 1, epoch), n)[0])
        row: I64 = (block * BLOCK + offset + turn) % n
        return row

    def _check(self, pool: Pool, quota: int) -> None:
        largest = len(pool) / self.batch
        if quota == 0:
            raise ConfigError(
                f"source {pool.name!r}: its share {pool.share:.2g} is below 1/{PERIOD} of the samples and would never "
                f"be drawn; raise its weight or leave it out"
            )
        if len(self.selection.pools) == 1 and largest < 1:
            raise ConfigError(
                f"train.batch {self.batch} is more than the {len(pool)} frames there are: a batch would hold the same "
                f"frame twice; take at most {len(pool)}"
            )
        if pool.share > largest:
            raise ConfigError(
                f"source {pool.name!r} has {len(pool)} frames but would fill {pool.share * self.batch:.0f} of the "
                f"{self.batch} places of a batch: a batch would hold the same frame twice. The largest share it can "
                f"carry is {largest:.3f}; lower its weight or the batch size"
            )


@lru_cache(maxsize=64)
def _permutation(n: int, *key: int | str) -> Permutation:
    return Permutation(n, *key)


def largest_remainder(shares: list[float], total: int) -> I64:
    """Integers proportional to `shares` that sum to `total` (Hamilton's method; ties go to the first)."""
    weights = np.asarray(shares, dtype=np.float64)
    exact = weights / weights.sum() * total
    quota: I64 = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - quota), kind="stable")
    quota[order[: total - int(quota.sum())]] += 1
    return quota
