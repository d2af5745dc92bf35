"""Batches out of an object store and from a web server: are they those of local shards, and how fast do they come?

    python benchmarks/object_store.py OUT [--steps 5000] [--pairs 3] [--json object_store.json]

moto's S3 and nginx with TLS serve one shards folder on the loopback. First, `--steps` steps of small frames while one
request in a hundred fails or is slow: rows, views and replaced frames of each step are compared with those of local
shards. Then frames per second of the loader without faults, in alternating pairs with local shards: small frames, whose
cost is the request, and blocks, whose cost is shared by the frames of a window. Servers and loader share this machine's
cores, so the ratio is a lower bound. Exit code 1 where a batch differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from data_factory import make_catalog
from store_factory import https_store, nginx, s3_store

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.loader import Loader
from trocar.data.loading.reader import Reader
from trocar.data.remote.ranges import blocks_of
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan, Shuffle
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe

RECIPE = ViewRecipe(groups={"global": ViewGroup(count=1, size=32, scale=(0.4, 1.0))})
BATCH = 4
SLOW_S = 1.0


@dataclass(frozen=True)
class Passed:
    """What came of the steps: digest over rows and views, replaced frames, seconds from the first batch to the last."""

    digest: str
    bad: int
    seconds: float


def fault(number: int, path: str) -> object:
    """One request in a hundred: refused for now, or late."""
    return {50: "503", 150: SLOW_S}.get(number % 200, "")


@contextmanager
def store(kind: str, folder: Path, at: Path, failing: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Address and environment of a store of `folder`: `s3` or `https`."""
    if kind == "s3":
        with s3_store(folder, fault if failing else lambda number, path: "") as found:
            yield found
    else:
        share = 0.5 if failing else 0.0
        with https_store(folder, at, share, share) as found:
            yield found


def passed(place: str, steps: int, shuffle: Shuffle, out: Path, environment: dict[str, str] | None = None) -> Passed:
    """The steps in a process of its own, as a run has it, with a catalog and blocks that nothing has read before."""
    own = {"XDG_CACHE_HOME": str(out / "cache"), "OMP_NUM_THREADS": "1", **(environment or {})}
    words = [sys.executable, __file__, str(out), "--read", place, "--steps", str(steps), "--shuffle", shuffle]
    done = subprocess.run(words, env=os.environ | own, stdout=subprocess.PIPE, text=True, check=True)
    return Passed(**json.loads(done.stdout.splitlines()[-1]))


def read(place: str, steps: int, shuffle: Shuffle, out: Path) -> Passed:
    """The same in this process."""
    catalog = Catalog.open(place)
    plan = Plan(Composition(curate="none").resolve(catalog), BATCH, 0, shuffle)
    kept = catalog.store is not None and shuffle == "window"
    reader = Reader(catalog, blocks=blocks_of(str(out / "blocks"), catalog.fingerprint, 1.0) if kept else None)
    loader = Loader(plan, ViewPlan(RECIPE, 0), reader, (0.5,) * 3, (0.2,) * 3, workers=2)
    digest, bad, start = hashlib.sha256(), 0, 0.0
    for batch in loader.iterate(0, steps):
        start = start or time.perf_counter()
        digest.update(batch.rows.tobytes() + batch.views["global"].numpy().tobytes())
        bad += len(batch.bad)
    return Passed(digest.hexdigest(), bad, time.perf_counter() - start)


def kinds() -> list[str]:
    """The stores that can be started here."""
    return ["s3", *(["https"] if nginx() else [])]


def main() -> int:
    """Compare, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--shuffle", choices=("global", "window"), default="global", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        print(json.dumps(asdict(read(args.read, args.steps, args.shuffle, args.out))))
        return 0
    folder = args.out.absolute() / "shards"
    make_catalog(folder, 8, 400)
    differing, rows = 0, []
    for shuffle in ("global", "window"):
        local = passed(str(folder), args.steps, shuffle, args.out / "local")
        for kind in kinds():
            with store(kind, folder, args.out.absolute() / "nginx", failing=True) as (address, environment):
                here = args.out / f"{kind}-{shuffle}-failing"
                remote = passed(address, args.steps, shuffle, here, environment)
            same = (remote.digest, remote.bad) == (local.digest, local.bad)
            differing += not same
            rows.append({"store": kind, "shuffle": shuffle, "steps": args.steps, "same": same, "bad": remote.bad})
            print(f"{kind:6} {shuffle:7} {args.steps} steps, 1 % of requests fail or are slow: ", end="")
            print(f"{'equal to local shards' if same else 'DIFFERENT'}, {remote.bad} frames replaced, ", end="")
            print(f"{remote.seconds:.1f} s (local {local.seconds:.1f} s)", flush=True)
    steps = max(200, args.steps // 5)
    for shuffle in ("global", "window") if args.pairs else ():
        for kind in kinds():
            ratios, frames = [], []
            with store(kind, folder, args.out.absolute() / "nginx", failing=False) as (address, environment):
                for pair in range(args.pairs):
                    here = args.out / f"{kind}-{shuffle}-{pair}"
                    remote = passed(address, steps, shuffle, here, environment)
                    local = passed(str(folder), steps, shuffle, here)
                    ratios.append(local.seconds / remote.seconds)
                    frames.append(steps * BATCH / remote.seconds)
            ratio, rate = statistics.median(ratios), statistics.median(frames)
            rows.append({"store": kind, "shuffle": shuffle, "frames_per_s": rate, "of_local": ratios})
            print(f"{kind:6} {shuffle:7} {rate:6.0f} frames/s, {ratio:.2f} of local shards ", end="")
            print(f"({min(ratios):.2f} to {max(ratios):.2f}; {args.pairs} pairs of {steps} steps)", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
