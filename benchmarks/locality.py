"""What a plan's batches cost a file system, from the catalog's (shard, offset, size) alone; prints JSON.

    python benchmarks/locality.py ROOT --shuffle window --nodes 8

A window's batches are simulated from its first to its last. Reads are rounded out to granules: 4 KiB pages (local NVMe,
no read-ahead) or 1 MiB (a Lustre stripe with read-ahead). `alone` counts what one batch touches, nothing kept from the
one before; `cached` keeps the granules used last in a page cache of `--cache` GiB, and counts what still has to be
fetched. A node draws its slice of the slots of a batch and has a cache of its own.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import BLOCK, WINDOW_BATCHES, Plan

I64 = npt.NDArray[np.int64]

OPEN_SHARDS = 256  # one number on every machine: a reader's own follows the limit of open files
GRANULES = {"4 KiB": 1 << 12, "1 MiB": 1 << 20}
SHARD_SPACE = 1 << 40  # bytes of address space per shard: positions of all shards on one line


@dataclass
class Recent:
    """The `size` keys used last."""

    size: int
    held: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def misses(self, keys: list[int]) -> list[int]:
        """Use the keys in order; those that were not there."""
        out = []
        for key in keys:
            if key in self.held:
                self.held.move_to_end(key)
                continue
            out.append(key)
            self.held[key] = None
            if len(self.held) > self.size:
                self.held.popitem(last=False)
        return out


def touched(begin: I64, size: I64, granule: int) -> I64:
    """The numbers of all granules that these reads touch, in the order of the reads, each read's ascending."""
    first, last = begin // granule, (begin + size - 1) // granule
    count = last - first + 1
    within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    out: I64 = np.repeat(first, count) + within
    return out


def seeks(granules: I64) -> int:
    """Fetches that don't begin in the granule of the one before, or in the next."""
    if not granules.size:
        return 0
    step = np.diff(granules)
    return 1 + int(((step < 0) | (step > 1)).sum())


def simulate(
    catalog: Catalog, plan: Plan, start: int, steps: int, nodes: int, cache: int, held: int = OPEN_SHARDS
) -> dict[str, Any]:
    """Means per batch of one node over the steps start..start + steps - 1."""
    frames = catalog.frames
    share = plan.batch // nodes
    total: dict[str, float] = {}
    caches = {name: Recent(cache // size) for name, size in GRANULES.items()}
    handles = {"planned": Recent(held), "sorted": Recent(held)}

    def add(name: str, value: float) -> None:
        total[name] = total.get(name, 0.0) + value / steps

    for step in range(start, start + steps):
        whole = plan.rows(step)
        add("videos of the global batch", np.unique(frames["video"][whole]).size)
        rows = whole[:share]
        shard, size = frames["shard"][rows].astype(np.int64), frames["size"][rows].astype(np.int64)
        begin = shard * SHARD_SPACE + frames["offset"][rows]
        order = np.argsort(begin)
        add("useful bytes", int(size.sum()))
        add("shards", np.unique(shard).size)
        add("opens, planned order", len(handles["planned"].misses(shard.tolist())))
        add("opens, sorted", len(handles["sorted"].misses(shard[order].tolist())))
        for name, granule in GRANULES.items():
            planned = touched(begin, size, granule)
            ordered = touched(begin[order], size[order], granule)
            add(f"{name}: bytes alone", np.unique(ordered).size * granule)
            add(f"{name}: seeks alone, planned order", seeks(planned))
            add(f"{name}: seeks alone, sorted", seeks(ordered))
            fetched = np.array(caches[name].misses(ordered.tolist()), np.int64)
            add(f"{name}: bytes cached", fetched.size * granule)
            add(f"{name}: seeks cached, sorted", seeks(fetched))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--shuffle", choices=["global", "window"], default="global")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--cache", type=int, default=16, help="GiB of page cache of a node")
    parser.add_argument("--open-shards", type=int, default=OPEN_SHARDS, help="that a reader holds open")
    args = parser.parse_args()
    catalog = Catalog.open(args.root)
    plan = Plan(Composition().resolve(catalog), args.batch, 0, args.shuffle)
    window = -(-WINDOW_BATCHES * args.batch // BLOCK) * BLOCK // args.batch
    total = simulate(catalog, plan, 10 * window, window, args.nodes, args.cache << 30, args.open_shards)
    print(json.dumps({"window": window, **total}))


if __name__ == "__main__":
    main()
