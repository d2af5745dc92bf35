"""One measurement of `scale.py`, in a process of its own; prints JSON. Memory is anonymous memory over the imports'.

python benchmarks/scale_points.py catalog ROOT none|default|weighted
python benchmarks/scale_points.py plan ROWS whole|curated
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from memory import anonymous_kib

from trocar.data.catalog.catalog import Catalog
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.selection.selection import Pool, RowRuns, Selection

COMPOSITIONS = {
    "none": Composition(curate="none"),
    "default": Composition(),
    "weighted": Composition(weights="sqrt"),
}
BATCHES = (1024, 4096)
STEPS = 101
VIDEO = 3600  # rows of an hour at 1 fps


class Meter:
    """Times calls, and the anonymous memory that they leave behind and reach meanwhile (sampled)."""

    def __init__(self) -> None:
        self.imports = anonymous_kib()
        self._top = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._top = max(self._top, anonymous_kib())
            time.sleep(0.005)

    def measure(self, call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """The result; seconds, seconds of them on the processor, MiB afterwards and at most (over the imports')."""
        self._top = 0
        started, worked = time.perf_counter(), time.thread_time()
        result = call()
        seconds, cpu = time.perf_counter() - started, time.thread_time() - worked
        after = anonymous_kib()
        top = max(self._top, after)
        return result, {
            "s": seconds,
            "cpu_s": cpu,
            "mib": (after - self.imports) / 1024,
            "top_mib": (top - self.imports) / 1024,
        }


def batches(selection: Selection, meter: Meter) -> dict[str, Any]:
    """Plan construction, the first batch and the median batch, per shuffle and batch size."""
    out: dict[str, Any] = {}
    for shuffle in ("global", "window"):
        for batch in BATCHES:
            plan, made = meter.measure(lambda b=batch, s=shuffle: Plan(selection, b, 0, s))
            _, first = meter.measure(lambda p=plan: p.rows(0))
            middle = len(selection) // batch // 2
            taken = [meter.measure(lambda p=plan, t=step: p.rows(t))[1] for step in range(middle, middle + STEPS)]
            out[f"{shuffle}-{batch}"] = {
                "plan_ms": 1e3 * made["s"],
                "first_ms": 1e3 * first["s"],
                "median_ms": 1e3 * statistics.median(one["s"] for one in taken),
                "median_cpu_ms": 1e3 * statistics.median(one["cpu_s"] for one in taken),
            }
    out["mib"] = (anonymous_kib() - meter.imports) / 1024
    return out


def catalog_point(root: Path, composition: str) -> dict[str, Any]:
    """Open, resolve and draw from the catalog of `root`."""
    meter = Meter()
    catalog, opened = meter.measure(lambda: Catalog.open(root))
    selection, resolved = meter.measure(lambda: COMPOSITIONS[composition].resolve(catalog))
    runs = [pool.runs for pool in selection.pools]
    return {
        "open": opened,
        "resolve": resolved,
        "rows": len(catalog),
        "selected": len(selection),
        "runs": sum(r.start.size for r in runs),
        "pools": len(runs),
        "mask_mib": sum(r.mask.nbytes for r in runs) / 2**20,
        "batches": batches(selection, meter),
    }


def plan_point(rows: int, kind: str) -> dict[str, Any]:
    """A plan over videos of an hour, without a catalog: whole, or 4 % of the frames left out at random places."""
    meter = Meter()
    selection, made = meter.measure(lambda: _selection(rows, kind))
    return {"rows": rows, "selection": made, "selected": len(selection), "batches": batches(selection, meter)}


def _selection(rows: int, kind: str) -> Selection:
    videos = -(-rows // VIDEO)
    if kind == "whole":
        start = VIDEO * np.arange(videos, dtype=np.int64)
        have = np.full(videos, VIDEO, np.int64)
        runs = RowRuns(start, np.ones(videos, np.int64), have, have)
    else:
        left = [np.flatnonzero(np.random.default_rng(k).random(VIDEO) < 0.96).astype(np.int64) for k in range(16)]
        one = RowRuns.concatenate([RowRuns.of_video(part + VIDEO * k) for k, part in enumerate(left)])
        fold = -(-videos // 16)
        shift, again = np.divmod(np.arange(16 * fold, dtype=np.int64), 16)
        runs = RowRuns(
            one.start[again] + 16 * VIDEO * shift,
            one.stride[again],
            one.have[again],
            one.take[again],
            one.at[again] + one.mask.size * shift,
            np.tile(one.mask, fold),
        )
    return Selection((Pool("all", runs, 1.0),), {"all": len(runs)}, (), "synthetic")


def main() -> None:
    what, where, kind = sys.argv[1:4]
    point = catalog_point(Path(where), kind) if what == "catalog" else plan_point(int(where), kind)
    print(json.dumps(point))


if __name__ == "__main__":
    main()
