"""Feeding DALI: frames read, staged and handed over per second, against one thread and one buffer.

    python benchmarks/feeding.py [--catalog SHARDS] [--batch 1024] [--pairs 9]

The pipeline has the external source of training and passes everything on, undecoded, so what is timed is the thread
that feeds it, with the copy that DALI makes. Ways:

  reference   one thread reads; the JPEGs of a step are joined, copied into one buffer and wrapped, sample parameters
              are sliced
  readers N   N threads read; DALI is fed views of the bytes (training uses 8)

Medians over pairs: the reference and one of the ways, in turns, a whole step each; ratios are medians of the pairs'
ratios, of wall and of processor time (all threads of the process). Without --catalog, 2,048 frames of 854x480 and
about 70 KB are written to a temporary folder; they are in the page cache then, so what parallel reads gain on a network
file system doesn't show.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.writer import VideoEntry, write_catalog
from trocar.data.ingest.framing import encode
from trocar.data.ingest.shard_writer import ShardWriter
from trocar.data.loading.dali_pipeline import inputs, tags
from trocar.data.loading.reader import READERS, ReadAhead, Reader
from trocar.data.loading.steps import Delivered, Steps
from trocar.data.media.still import Jpeg
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Plan
from trocar.data.views.recipe import ViewParams, ViewPlan
from trocar.diagnostics.backend_parity import no_verdicts
from trocar.diagnostics.bench.loader import DINO

WIDTH, HEIGHT, QUALITY = 854, 480, 80
DISTINCT = 60
Feed = Callable[[int], list[Any]]


class Reference:
    """One thread and one buffer."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._room = np.empty(0, np.uint8)

    def __call__(self, step: int) -> list[Any]:
        """What the external source returns for a step."""
        jpegs: list[list[Jpeg]] = [[]] * self.steps.batch

        def use(index: int, frames: list[Jpeg], params: ViewParams) -> None:
            params.samples(slice(index, index + 1))
            jpegs[index] = frames

        done = self.steps.deliver(step, lambda row, jpeg: jpeg, use)
        return self._staged(jpegs, done)

    def _staged(self, samples: list[list[Jpeg]], done: Delivered) -> list[Any]:
        wrap = importlib.import_module("nvidia.dali.tensors").TensorCPU
        jpegs = [jpeg for frame in zip(*samples, strict=True) for jpeg in frame]
        total = sum(map(len, jpegs))
        if total > len(self._room):
            self._room = np.empty(2 * total, np.uint8)
        self._room[:total] = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
        ends = np.cumsum([len(jpeg) for jpeg in jpegs])
        frames = [wrap(part, "") for part in np.split(self._room[:total], ends[:-1])]
        per_frame = [frames[at : at + len(samples)] for at in range(0, len(frames), len(samples))]
        boxes = done.params.boxes.astype(np.float32)
        corners = []
        for view in range(self.steps.recipe.count):
            start = boxes[:, view, :2]
            corners += [np.ascontiguousarray(start), start + boxes[:, view, 2:]]
        return [*per_frame, tags(done), *corners]


class Readers:
    """As training does it, with `threads` readers."""

    def __init__(self, steps: Steps, threads: int = READERS) -> None:
        self.steps, self.ahead = steps, ReadAhead(threads)

    def __call__(self, step: int) -> list[Any]:
        """What the external source returns for a step."""
        jpegs: list[list[Jpeg]] = [[]] * self.steps.batch

        def use(index: int, frames: list[Jpeg], params: ViewParams) -> None:
            jpegs[index] = frames

        done = self.steps.deliver(step, lambda row, jpeg: jpeg, use, self.ahead)
        return inputs(self.steps.recipe, jpegs, done)


def write_frames(root: Path, rows: int) -> Catalog:
    """A catalog of `rows` frames of the size of surgical ones, 60 of them different, in shards of 512."""
    jpegs = [encode(picture(index), QUALITY) for index in range(min(rows, DISTINCT))]
    entries = []
    for number, first in enumerate(range(0, rows, 512)):
        count = min(512, rows - first)
        (root / "shards").mkdir(parents=True, exist_ok=True)
        with ShardWriter(root / "shards", f"video{number}") as writer:
            for row in range(first, first + count):
                writer.add(float(row), jpegs[row % len(jpegs)], WIDTH, HEIGHT)
        entries.append(
            VideoEntry(
                name=f"video{number}",
                case_id=f"case{number}",
                part=1,
                source="made",
                fps=1.0,
                duration_s=float(count),
                content_hash=writer.content.hexdigest(),
                shards=writer.shards(),
                frames=writer.frames(),
                quality=no_verdicts(count),
            )
        )
    write_catalog(root, entries)
    return Catalog.open(root)


def picture(index: int) -> Image.Image:
    """Soft shapes under noise, 854 x 480, of about 70 KB as a JPEG of quality 80."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 24, WIDTH // 24, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


def steps_of(catalog: Catalog, batch: int) -> Steps:
    """DINO's views of a catalog's frames."""
    selection = Composition(curate="none").resolve(catalog)
    return Steps(Plan(selection, batch, 0), ViewPlan(DINO, 0), Reader(catalog))


def pipeline(feed: Feed, steps: Steps) -> Any:
    """A built pipeline that hands on what it is fed, a step each time it is run."""
    fn = importlib.import_module("nvidia.dali.fn")
    built = importlib.import_module("nvidia.dali.pipeline").Pipeline(
        batch_size=steps.batch, num_threads=2, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
    )
    step = iter(range(1 << 30))
    with built:
        count = steps.recipe.frames + 1 + 2 * steps.recipe.count
        built.set_outputs(*fn.external_source(lambda: feed(next(step)), num_outputs=count, batch=True))
    built.build()
    return built


@dataclass(frozen=True)
class Compared:
    """Median microseconds per frame of wall time, of the reference and of a way, and median ratios of the pairs."""

    reference: float
    way: float
    ratio: float
    processor_ratio: float


def compare(steps: Steps, ways: Mapping[str, Feed], pairs: int) -> dict[str, Compared]:
    """Each way against the reference."""
    reference = pipeline(Reference(steps), steps)
    found = {}
    for name, way in ways.items():
        runs = (reference, pipeline(way, steps))
        for run in runs:
            run.run()
        times: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
        for number in range(pairs):
            for which in (0, 1) if number % 2 else (1, 0):
                wall, processor = time.perf_counter(), time.process_time()
                runs[which].run()
                times[which][0].append(1e6 * (time.perf_counter() - wall) / steps.batch)
                times[which][1].append(1e6 * (time.process_time() - processor) / steps.batch)
        ratios = [statistics.median(a / b for a, b in zip(*kind, strict=True)) for kind in zip(*times, strict=True)]
        found[name] = Compared(statistics.median(times[0][0]), statistics.median(times[1][0]), *ratios)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--readers", type=int, nargs="+", default=[1, 2, READERS])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trocar-feeding-") as folder:
        catalog = Catalog.open(args.catalog) if args.catalog else write_frames(Path(folder), args.rows)
        print(f"{catalog.frames['size'].mean() / 1e3:.0f} KB a frame, batches of {args.batch}, {args.pairs} pairs\n")
        steps = steps_of(catalog, args.batch)
        ways = {f"readers {threads}": Readers(steps, threads) for threads in args.readers}
        print("| way | reference, us per frame | us per frame | reference / way | by processor time |")
        print("|---|---|---|---|---|")
        for name, x in compare(steps, ways, args.pairs).items():
            print(f"| {name} | {x.reference:.0f} | {x.way:.0f} | {x.ratio:.2f} | {x.processor_ratio:.2f} |")


if __name__ == "__main__":
    main()
