"""How often the content check is wrong: false alarms between different patients, and copies that it misses.

    python benchmarks/leak_threshold.py DIR...

Each DIR holds one video file or folder of images per operation (or images named `OPERATION-frame-N.jpg`). Every
operation is compared with every other one (negatives) and with altered copies of itself (positives): re-encoded,
resized, border cropped, brighter, in a black surround. Files whose names share the
part before the last `_` are of one operation and are compared with each other in the last table.
"""

from __future__ import annotations

import argparse
import io
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import av
import faiss
import numpy as np
from PIL import Image

from trocar.data.ingest.framing import find_content
from trocar.data.ingest.quality import dhash, distance
from trocar.data.media.delivered_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from trocar.data.media.still import open_jpeg, read_still
from trocar.leakage.matching import RADIUS, RUN, Rule, find_copies
from trocar.leakage.pictures import VARIANTS, Pictures, variants

Images = list[Image.Image]
Video = tuple[str, Images, list[float]]
FPS = 2.0


def videos(root: Path) -> Iterator[Video]:
    """(name, pictures, seconds) of every video file, folder of images or group of images below `root`."""
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES):
        yield path.stem, *decode(path)
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        groups[path.parent, re.sub(r"(-frame-\d+|_?\d{6})?$", "", path.stem)].append(path)
    for (folder, prefix), paths in sorted(groups.items()):
        times = [float(re.findall(r"\d+", path.stem)[-1]) for path in paths]
        yield prefix or folder.name, [read_still(p) for p in paths], times


def decode(path: Path) -> tuple[Images, list[float]]:
    images, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= len(times) / FPS:
                images.append(frame.to_image())
                times.append(float(frame.time))
    return images, times


def stored(images: Images) -> Images:
    """As ingest stores them: surround cut off, 256 pixels."""
    box = find_content(images[:: max(1, len(images) // 16)]).box
    found = []
    for image in images:
        left, top, width, height = box or (0, 0, *image.size)
        scale = 256 / min(width, height)
        size = (round(width * scale), round(height * scale))
        found.append(image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)))
    return found


def as_pool(name: str, images: Images, times: list[float]) -> Pictures:
    hashes = np.frombuffer(b"".join(dhash(image) for image in images), np.uint8).reshape(-1, 1, 32)
    return Pictures(hashes, np.zeros(len(images), np.int64), np.array(times), (name,), (("", name),))


def as_query(name: str, images: Images, times: list[float]) -> Pictures:
    return replace(as_pool(name, images, times), hashes=variants(images))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return open_jpeg(buffer.getvalue())


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def surrounded(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (round(image.width * 1.3), round(image.height * 1.1)))
    canvas.paste(image, (round(image.width * 0.15), round(image.height * 0.05)))
    return canvas


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "same file": lambda image: image,
    "JPEG 30": lambda image: jpeg(image, 30),
    "half size, JPEG 50": lambda image: jpeg(image.resize((image.width // 2, image.height // 2)), 50),
    "squashed to 250 x 250": lambda image: image.resize((250, 250)),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.2 * value + 10))),
    "border 2 %": lambda image: cut(image, 0.02, 0.02, 0.02, 0.02),
    "border 6 %": lambda image: cut(image, 0.06, 0.06, 0.06, 0.06),
    "border 10 %": lambda image: cut(image, 0.1, 0.1, 0.1, 0.1),
    "left 6 % only": lambda image: cut(image, 0.06, 0, 0, 0),
    "black surround": surrounded,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def operation(name: str) -> str:
    return name.rsplit("_", 1)[0] if re.search(r"_\d+$", name) else name


def negatives(pools: list[Pictures], queries: list[Pictures]) -> None:
    print(
        "\nDifferent patients\n\n"
        "| bits | matching frame pairs | of | rate | video pairs with a run of 1, 2, 3, 4 pictures |\n"
        "|---|---|---|---|---|"
    )
    bits, pairs = [], []
    for query, pool in ((q, p) for q in queries for p in pools if operation(q.names[0]) != operation(p.names[0])):
        q, p = query.informative(), pool.informative()
        if len(q) and len(p):
            # Of a pair of frames the nearest variant counts, as in the search.
            bits.append(
                np.min([distance(q.hashes[:, v, None], p.hashes[None, :, 0]) for v in range(VARIANTS)], axis=0).ravel()
            )
            pairs.append((query, pool))
    every = np.concatenate(bits)
    for radius in (12, 16, 20, 24, 28, 32, 36, 40):
        near = int((every <= radius).sum())
        alarms = []
        for run in (1, 2, 3, 4):
            rule = Rule(radius, run, isolated_radius=-1)
            alarms.append(sum(bool(find_copies(q, p, rule)) for q, p in pairs) if near else 0)
        print(f"| {radius} | {near} | {len(every):,} | {near / len(every):.1e} | {', '.join(map(str, alarms))} |")
    print(f"\n{len(pairs)} ordered pairs of videos. Isolated pictures that would be suspect:", end=" ")
    print(sum(any(c.offset_s is None for c in find_copies(q, p)) for q, p in pairs))


def growth(pools: list[Pictures], queries: list[Pictures]) -> None:
    """Single matches and alarms of one test video against ever more of the pool."""
    print("\nFalse alarms against pool size (one pool of all others for every test video)\n")
    print(
        "| pool frames, mean | test videos | with a single match within the radius | flagged by a run |\n"
        "|---|---|---|---|"
    )
    for share in (0.125, 0.25, 0.5, 1.0):
        sizes, single, flagged = [], 0, 0
        for query in queries:
            others = [p for p in pools if operation(p.names[0]) != operation(query.names[0])]
            pool = Pictures.join(others[: max(1, round(share * len(others)))])
            sizes.append(len(pool))
            single += bool(find_copies(query, pool, Rule(RADIUS, 1, -1)))
            flagged += bool(find_copies(query, pool))
        print(f"| {np.mean(sizes):.0f} | {len(queries)} | {single} | {flagged} |")


def positives(found: list[Video], queries: list[Pictures]) -> None:
    print(
        "\nCopies found (in the pool as it is / as ingest stores it)\n\n| copy | as it is | ingested |\n|---|---|---|"
    )
    enough = [(video, q) for video, q in zip(found, queries, strict=True) if len(q.informative()) >= RUN]
    for label, alter in COPIES.items():
        cells = []
        for prepare in (list, stored):
            hits = 0
            for (name, images, times), query in enough:
                copy = as_pool(name, prepare([alter(image) for image in images]), [t + 100 for t in times])
                hits += any(c.offset_s is not None and abs(c.offset_s - 100) < 2 for c in find_copies(query, copy))
            cells.append(f"{hits} of {len(enough)}")
        print(f"| {label} | {' | '.join(cells)} |")


def windows(pools: list[Pictures], queries: list[Pictures]) -> None:
    print("\nClips of one operation (overlapping windows have a run)\n")
    for q, p in combinations(range(len(pools)), 2):
        if operation(pools[q].names[0]) == operation(pools[p].names[0]) and pools[q].names != pools[p].names:
            print(pools[q].names[0], pools[p].names[0], find_copies(queries[q], pools[p]))


def speed() -> None:
    rng = np.random.default_rng(0)
    pool, queries = (rng.integers(0, 256, (n, 32), dtype=np.uint8) for n in (1_000_000, 512 * VARIANTS))
    index = faiss.IndexBinaryFlat(256)
    index.add(pool)
    faiss.omp_set_num_threads(1)
    start = time.process_time()
    index.range_search(queries, RADIUS + 1)
    rate = len(pool) * len(queries) / (time.process_time() - start)
    print(
        f"\nSpeed: {rate:.2e} pairs a second and core: 1e6 pool x 1e5 test frames x {VARIANTS} take "
        f"{1e11 * VARIANTS / rate / 60:.0f} minutes of one core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    found = [video for root in given.folders for video in videos(root)]
    pools = [as_pool(*video) for video in found]
    ingested = [as_pool(name, stored(images), times) for name, images, times in found]
    queries = [as_query(*video) for video in found]
    print(f"{len(found)} videos, {sum(map(len, pools))} frames")
    negatives(pools + ingested, queries)
    growth(pools + ingested, queries)
    positives(found, queries)
    windows(pools, queries)
    speed()


if __name__ == "__main__":
    main()
