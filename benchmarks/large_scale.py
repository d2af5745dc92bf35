"""A pretraining past any machine here, by simulation of its reads and arithmetic of the rest, for docs/scale.md.

    python benchmarks/large_scale.py [--rows 1000000000] [--nodes 8] [--gpus 8] [--batch 8192] [--rate 500]

Which rows a node reads at which step is the plan's own answer, so shards, opens and blocks are counted and not assumed.
All else is arithmetic from what the command line says of the machines: rates of GPUs, links, disks and file servers are
assumptions, and are printed above the tables.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scale import table
from scale_points import VIDEO, _selection

from trocar.data.selection.plan import Plan

GIB = 2**30
HANDLES = 16_384
"""Shards that a process keeps open at most (`trocar.data.loading.shard_files`)."""
BLOCK_BYTES = 4 << 20
BACKBONES = {
    "ViT-S/16": (21.7e6, 4.25),
    "ViT-B/16": (85.8e6, 16.87),
    "ViT-L/16": (303.3e6, 59.70),
    "ViT-g/14": (1136.5e6, 267.18),
}
"""Parameters without a head, and 10^9 multiply-adds of a picture of 224 pixels, as timm's tables have them. `rate` is
that of the ViT-B; others take longer as they have more multiply-adds."""
LINKS = {"100 Gb/s Ethernet": 12.5, "2 x 200 Gb/s": 50.0, "8 x 400 Gb/s": 400.0}
"""GB/s of one node's network, in one direction."""


@dataclass(frozen=True)
class Cluster:
    """`rate`: frames a second of one GPU. `opens`: opens a second of the metadata server. `storage`: GB/s of the file
    system to all nodes together. `disk`, `disk_rate`: bytes and GB/s of a node's own disk. `nvlink`: GB/s of a GPU.
    """

    rows: int
    nodes: int
    gpus: int
    batch: int
    rate: float
    frame: int
    opens: float
    storage: float
    disk: float
    disk_rate: float
    nvlink: float

    def step_s(self, backbone: str = "ViT-B/16") -> float:
        """Seconds of a step that is bound by its GPUs."""
        slower = BACKBONES[backbone][1] / BACKBONES["ViT-B/16"][1]
        return self.batch * slower / (self.rate * self.nodes * self.gpus)


@dataclass(frozen=True)
class Reads:
    """Of one node in a step: frames, shards with them, shards that had to be opened, blocks that had to be fetched."""

    frames: float
    shards: float
    opens: float
    blocks: float


class Recent:
    """The keys used last, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self.size, self._keys = size, OrderedDict[int, None]()

    def misses(self, keys: Sequence[int]) -> int:
        """How many of the keys, used one after the other, were not among them."""
        missed = 0
        for key in keys:
            if key in self._keys:
                self._keys.move_to_end(key)
                continue
            missed += 1
            self._keys[key] = None
            if len(self._keys) > self.size:
                self._keys.popitem(last=False)
        return missed


def simulate(cluster: Cluster, shuffle: str, steps: int, cache: float) -> Reads:
    """What the first node reads in the second half of `steps` consecutive steps, when its caches have filled.

    Every rank is a process with its own open shards; a node's ranks share `cache` bytes of blocks.
    """
    plan = Plan(_selection(cluster.rows, "whole"), cluster.batch, 0, shuffle)
    share = cluster.batch // (cluster.nodes * cluster.gpus)
    handles = [Recent(HANDLES) for _ in range(cluster.gpus)]
    blocks = Recent(int(cache / BLOCK_BYTES))
    counted = np.zeros(4)
    for step in range(steps):
        rows = plan.rows(step)[: share * cluster.gpus]
        shard = rows // VIDEO
        opens = sum(
            handles[gpu].misses(np.unique(shard[gpu * share : (gpu + 1) * share]).tolist())
            for gpu in range(cluster.gpus)
        )
        fetched = blocks.misses(np.unique(rows * cluster.frame // BLOCK_BYTES).tolist())
        if step >= steps // 2:
            counted += (rows.size, np.unique(shard).size, opens, fetched)
    return Reads(*(counted / (steps - steps // 2)))


def reading(cluster: Cluster, steps: int, cache: float) -> tuple[str, dict[str, float]]:
    """The table of reads, and the load of each shared thing as a share of what it can do."""
    lines, load = [], {}
    for shuffle in ("global", "window"):
        found = simulate(cluster, shuffle, steps, cache)
        per_s = 1 / cluster.step_s()
        used = found.frames * cluster.frame
        in_blocks = found.blocks * BLOCK_BYTES
        fetched = used if shuffle == "global" else in_blocks
        load[f"{shuffle}: opens at the metadata server"] = found.opens * per_s * cluster.nodes / cluster.opens
        load[f"{shuffle}: bytes of the file system"] = fetched * per_s * cluster.nodes / cluster.storage / 1e9
        lines.append(
            [
                shuffle,
                f"{found.frames * per_s:,.0f}",
                f"{used * per_s / 1e6:,.0f} MB/s",
                f"{found.shards:,.0f}",
                f"{found.opens * per_s:,.0f}",
                f"{found.opens * per_s * cluster.nodes:,.0f}",
                f"{found.blocks * per_s:,.0f}",
                f"{in_blocks / used:.2f}",
            ]
        )
    head = [
        "shuffle",
        "frames/s of a node",
        "bytes used",
        "shards in a step of a node",
        "opens/s of a node",
        "opens/s of all",
        "blocks of 4 MiB/s of a node",
        "bytes in blocks per byte used",
    ]
    return table(head, lines), load


def all_reduced(bytes_: float, members: int) -> float:
    """Bytes that pass each member's link when a ring reduces a tensor to all (Patarasuk and Yuan, 2009)."""
    return 2 * (members - 1) / members * bytes_


def exchange_s(cluster: Cluster, parameters: float, link: float, shard: str) -> float:
    """Seconds of a step's exchange alone, float32, without computing beside it.

    none: gradients are reduced to all GPUs, within a node by NVLink, between nodes by the node's network. full: weights
    are gathered twice and gradients reduced once over all GPUs. hybrid: the same within a node, and each GPU's part of
    the gradients is reduced between nodes.
    """
    size, everyone = 4 * parameters, cluster.nodes * cluster.gpus
    if shard == "full":
        return 3 * (everyone - 1) / everyone * size / (link * 1e9)
    between = all_reduced(size, cluster.nodes) / (link * 1e9)
    inside = (3 if shard == "hybrid" else 2) * (cluster.gpus - 1) / cluster.gpus * size / (cluster.nvlink * 1e9)
    return between + inside


def exchange(cluster: Cluster) -> str:
    """Exchange by network and link beside the step's computing at the given rate."""
    lines = []
    for name, (parameters, _) in BACKBONES.items():
        for link, rate in LINKS.items():
            seconds = [exchange_s(cluster, parameters, rate, shard) for shard in ("none", "hybrid", "full")]
            lines.append([name, link, *(f"{1e3 * s:,.0f}" for s in (cluster.step_s(name), *seconds))])
    head = ["backbone", "network of a node", "computing, ms", "none, ms", "hybrid, ms", "full, ms"]
    return table(head, lines)


def held(parameters: float, parts: int) -> float:
    """GiB of a GPU for student, teacher, gradients and AdamW's two moments in float32, heads not counted."""
    return 5 * 4 * parameters / parts / GIB


def memory(cluster: Cluster) -> str:
    """What lies on a GPU, and a checkpoint's size and time: student, teacher and two moments, gathered to rank 0."""
    lines = []
    for name, (parameters, _) in BACKBONES.items():
        size = 4 * 4 * parameters
        gathered = size / min(LINKS.values()) / 1e9
        lines.append(
            [
                name,
                *(f"{held(parameters, parts):.1f}" for parts in (1, cluster.gpus, cluster.nodes * cluster.gpus)),
                f"{size / GIB:.1f}",
                f"{gathered:.1f}",
                f"{size / 2e9:.0f}",
            ]
        )
    head = [
        "backbone",
        "none, GiB",
        "hybrid",
        "full",
        "checkpoint, GiB",
        "to gather it at 12.5 GB/s, s",
        "to write it at 2 GB/s, s",
    ]
    return table(head, lines)


def staging(cluster: Cluster) -> tuple[list[str], float]:
    """What copying the shards to every node's disk takes, in words, and the share of the disk that they need."""
    total = cluster.rows * cluster.frame
    by_disk = total / cluster.disk_rate / 1e9
    by_storage = total * cluster.nodes / cluster.storage / 1e9
    share = total / cluster.disk
    fits = "fit" if share <= 1 else "do not fit"
    return [
        f"The shards are {total / 1e12:.1f} TB; on a node's disk of {cluster.disk / 1e12:.1f} TB they {fits}.",
        f"A copy on every node takes {max(by_disk, by_storage) / 3600:.1f} h: {by_disk / 3600:.1f} h for a disk,",
        f"{by_storage / 3600:.1f} h for the file system that serves all of them. An epoch takes",
        f"{cluster.rows / cluster.batch * cluster.step_s() / 3600:.1f} h at the GPUs' rate.",
    ], share


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=500, help="frames a second of one GPU with a ViT-B/16")
    parser.add_argument("--frame", type=int, default=30_000, help="bytes of a frame")
    parser.add_argument("--opens", type=float, default=20_000, help="opens a second of the metadata server")
    parser.add_argument("--storage", type=float, default=20, help="GB/s of the file system to all nodes")
    parser.add_argument("--disk", type=float, default=7.68e12, help="bytes of a node's own disk")
    parser.add_argument("--disk-rate", type=float, default=3, help="GB/s that a node's own disk writes")
    parser.add_argument("--nvlink", type=float, default=450, help="GB/s between the GPUs of a node, in one direction")
    parser.add_argument("--steps", type=int, default=256, help="steps that are simulated")
    parser.add_argument("--cache", type=float, default=64 * GIB, help="bytes of blocks that a node keeps")
    given = vars(parser.parse_args())
    steps, cache = given.pop("steps"), given.pop("cache")
    cluster = Cluster(**given)
    print(
        "Assumed: " + ", ".join(f"{name} {value:g}" for name, value in given.items()) + f", cache {cache / GIB:g} GiB\n"
    )
    reads, load = reading(cluster, steps, cache)
    print("## Reading\n\n" + reads + "\n")
    words, share = staging(cluster)
    load["global or window: a copy of all shards on a node's disk"] = share
    print("## Staging\n\n" + "\n".join(words) + "\n")
    print("## Memory and checkpoints\n\n" + memory(cluster) + "\n")
    print("## The step\n\n" + exchange(cluster) + "\n")
    for link, rate in LINKS.items():
        load[f"gradients of ViT-L over {link}, against the step's computing"] = exchange_s(
            cluster, BACKBONES["ViT-L/16"][0], rate, "none"
        ) / cluster.step_s("ViT-L/16")
    worst = sorted(load.items(), key=lambda item: -item[1])
    print("## What breaks first\n\n" + table(["what", "asked for / there is"], [[k, f"{v:.2f}"] for k, v in worst]))


if __name__ == "__main__":
    main()
