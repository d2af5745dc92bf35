"""Start, memory, batch plans and locality of reading at five million, a hundred million and a billion rows.

    python benchmarks/scale.py OUT [--rows 5000000 100000000] [--plan-rows 1000000 ...] [--json FILE]

Writes synthetic catalogs below OUT (36 bytes per row; 4 GB for the default, and as much again while it is written)
unless they are there, measures every point in a process of its own and prints Markdown tables. Memory is anonymous
memory (RssAnon) over that of a process which only made the imports: pages of a mapped catalog belong to the page cache
and don't count. Verdicts are read through once before, so that the disk is not what is timed. `cpu` is the time on the
processor: on a busy machine the wall clock says little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locality import GRANULES
from scale_points import BATCHES, COMPOSITIONS, VIDEO
from synthetic_catalog import write_synthetic

HERE = Path(__file__).parent
NODES = (1, 8)


def point(script: str, *words: object) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, str(HERE / script), *(str(word) for word in words)]
    print("  ".join(command[1:]), file=sys.stderr)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def catalog(out: Path, rows: int) -> Path:
    """The synthetic catalog of `rows` rows, written if need be; its small files read once."""
    root = out / f"rows-{rows}"
    if not (root / "catalog" / "catalog.json").is_file():
        write_synthetic(root, rows, -(-rows // VIDEO), own_shards=True)
    for path in (root / "catalog").glob("*.parquet"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
    return root


def measure(out: Path, rows: Sequence[int], plan_rows: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """All points, as lists of flat records."""
    found: dict[str, list[dict[str, Any]]] = {"catalog": [], "plan": [], "locality": []}
    for count in rows:
        root = catalog(out, count)
        for name in COMPOSITIONS:
            found["catalog"].append({"composition": name, **point("scale_points.py", "catalog", root, name)})
        for shuffle in ("global", "window"):
            for nodes in NODES:
                words = ("--shuffle", shuffle, "--nodes", nodes)
                record = {"rows": count, "shuffle": shuffle, "nodes": nodes, **point("locality.py", root, *words)}
                found["locality"].append(record)
    for count in plan_rows:
        for kind in ("whole", "curated"):
            found["plan"].append({"kind": kind, **point("scale_points.py", "plan", count, kind)})
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers to three digits."""
    cells = [[_cell(value) for value in line] for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *cells]) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value / 10**6:g} M" if isinstance(value, int) and value >= 10**6 else str(value)


def _opened(found: Sequence[dict[str, Any]]) -> str:
    head = ("rows", "composition", "open s (cpu)", "open MiB", "resolve s (cpu)", "after MiB", "peak MiB", "runs")
    lines = [
        (
            p["rows"],
            p["composition"],
            f"{p['open']['s']:.2f} ({p['open']['cpu_s']:.2f})",
            p["open"]["mib"],
            f"{p['resolve']['s']:.1f} ({p['resolve']['cpu_s']:.1f})",
            p["resolve"]["mib"],
            p["resolve"]["top_mib"],
            p["runs"],
        )
        for p in found
    ]
    return table((*head, "masks MiB"), [(*line, p["mask_mib"]) for line, p in zip(lines, found, strict=True)])


def _drawn(found: Sequence[dict[str, Any]], label: str) -> str:
    head = ["rows", label, "MiB"]
    for shuffle in ("global", "window"):
        head += [f"{shuffle}: Plan ms", "first ms", *(f"{batch}: ms (cpu)" for batch in BATCHES)]
    lines = []
    for p in found:
        name = f"{p[label]}, {p['pools']} pools" if "pools" in p else p[label]
        line: list[object] = [p["rows"], name, p["batches"]["mib"]]
        for shuffle in ("global", "window"):
            small = p["batches"][f"{shuffle}-{BATCHES[0]}"]
            line += [small["plan_ms"], small["first_ms"]]
            each = (p["batches"][f"{shuffle}-{batch}"] for batch in BATCHES)
            line += [f"{one['median_ms']:.2f} ({one['median_cpu_ms']:.2f})" for one in each]
        lines.append(line)
    return table(head, lines)


def _read(found: Sequence[dict[str, Any]]) -> str:
    head = ["rows", "shuffle", "nodes", "videos", "shards", "opens (sorted)"]
    for name in GRANULES:
        head += [f"{name}: bytes alone", "bytes cached", "seeks as planned", "sorted", "sorted, cached"]
    lines = []
    for p in found:
        opens = f"{p['opens, planned order']:.0f} ({p['opens, sorted']:.0f})"
        line: list[object] = [p["rows"], p["shuffle"], p["nodes"], p["videos of the global batch"], p["shards"], opens]
        for name in GRANULES:
            line += [p[f"{name}: bytes {kind}"] / p["useful bytes"] for kind in ("alone", "cached")]
            line += [p[f"{name}: seeks {kind}"] for kind in ("alone, planned order", "alone, sorted", "cached, sorted")]
        lines.append(line)
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=[5_000_000, 100_000_000])
    parser.add_argument("--plan-rows", type=int, nargs="*", default=[10**6, 10**7, 10**8, 10**9])
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    found = measure(args.out, args.rows, args.plan_rows)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("Catalog and selection\n\n" + _opened(found["catalog"]))
    print("Batch plans\n\n" + _drawn(found["catalog"], "composition"))
    print("Plan alone, without a catalog\n\n" + _drawn(found["plan"], "kind"))
    print("Reading, per batch of 1,024 and node; bytes per useful byte\n\n" + _read(found["locality"]))


if __name__ == "__main__":
    main()
