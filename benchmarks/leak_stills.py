"""Whether copies of single pictures are found and left out of a pool of stills, and no picture of another patient is.

    python benchmarks/leak_stills.py OUT DIR...

Each DIR holds folders of images, a folder an operation, or images named `OPERATION-frame-N.jpg`. Twenty pictures of
every fourth operation are held out. The pool has six altered copies of each, and every picture of the other operations;
it goes through `trocar ingest --stills` and the leak guard. Then how near pictures of different operations come.
OUT is a new folder.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from trocar.cli.main import main as trocar
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.quality import LEAST_BITS, dhash, distance, set_bits
from trocar.data.ingest.sources.find import IMAGE_SUFFIXES
from trocar.data.labelled_data import LeakConfig
from trocar.data.media.still import open_jpeg, read_still
from trocar.data.selection.composition import Composition
from trocar.leakage.guard import LeakSearch
from trocar.leakage.matching import ISOLATED_RADIUS, RADIUS
from trocar.leakage.pictures import U8, variants

STILLS, EVERY = 20, 4
LIMITS = (ISOLATED_RADIUS, RADIUS, 26, 28, 30, 32, 36, 40)
Alter = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image) -> Image.Image:
    """As JPEG of quality 50."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return open_jpeg(buffer.getvalue())


def cut(image: Image.Image) -> Image.Image:
    """Without 8 % on each side."""
    w, h = image.size
    return image.crop((round(0.08 * w), round(0.08 * h), round(0.92 * w), round(0.92 * h)))


COPIES: dict[str, Alter] = {
    "JPEG 50": jpeg,
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squashed to 250 x 250": lambda image: image.resize((250, 250)),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.2 * value + 10))),
    "8 % cut off": cut,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def operations(roots: list[Path]) -> dict[str, list[Path]]:
    """Operation -> its pictures."""
    found: dict[str, list[Path]] = defaultdict(list)
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            prefix = re.sub(r"(-frame-\d+|_?\d{6})?$", "", path.stem)
            found[f"{path.parent.name} {prefix}".strip()].append(path)
    return dict(found)


def chosen(found: dict[str, list[Path]], names: list[str]) -> list[Path]:
    """STILLS pictures of these operations with structure, spread evenly over all of them."""
    usable = [path for name in names for path in found[name] if _bits(path) >= LEAST_BITS]
    return [usable[i] for i in np.linspace(0, len(usable) - 1, STILLS).astype(int)]


def _bits(path: Path) -> int:
    return int(set_bits(np.frombuffer(dhash(read_still(path)), np.uint8)))


def write(out: Path, found: dict[str, list[Path]]) -> None:
    """OUT/held_out as a labelled folder, OUT/pool with the copies and all pictures of other operations."""
    names = sorted(found)
    stills = chosen(found, names[::EVERY])
    (out / "held_out").mkdir(parents=True)
    with (out / "held_out" / "frames.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "case", "phase"])
        for i, path in enumerate(stills):
            image = read_still(path)
            image.save(out / "held_out" / f"{i:02d}.png")
            rows.writerow([f"{i:02d}.png", f"still{i:02d}", i % 2])
            for label, alter in COPIES.items():
                folder = out / "pool" / "copies" / label.replace(" ", "_").replace("%", "percent")
                folder.mkdir(parents=True, exist_ok=True)
                alter(image).save(folder / f"{i:02d}.jpg", quality=95)
    for number, name in enumerate(n for n in names if n not in names[::EVERY]):
        folder = out / "pool" / "others" / f"{number:02d}"
        folder.mkdir(parents=True)
        for i, path in enumerate(found[name]):
            (folder / f"{i:04d}{path.suffix}").symlink_to(path.resolve())


def nearest(queries: U8, pool: U8) -> U8:
    """uint8[n, m]: bits between test pictures and pool pictures, of the nearest variant."""
    return np.min([distance(queries[:, v, None], pool[None]) for v in range(queries.shape[1])], axis=0).astype(np.uint8)


def between_operations(found: dict[str, list[Path]]) -> None:
    """Every second picture with structure, in all variants, against those of all other operations."""
    pictures = [(name, path) for name in sorted(found) for path in found[name]][::2]
    images = [read_still(path) for _, path in pictures]
    for image in images:
        image.thumbnail((427, 427))
    hashes = np.concatenate([variants([image]) for image in images])
    usable = set_bits(hashes[:, 0]) >= LEAST_BITS
    hashes, of = hashes[usable], np.array([name for name, _ in pictures])[usable]
    bits = nearest(hashes, hashes[:, 0])[of[:, None] != of[None]]
    counts = ", ".join(f"{int((bits <= limit).sum())} within {limit}" for limit in LIMITS)
    print(f"\n{bits.size:,} pairs of pictures of different operations: {counts} bits; nearest {int(bits.min())}")


def main() -> None:
    """Write, ingest, guard, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    found = operations(given.folders)
    write(given.out, found)
    shards, data = given.out / "shards", given.out / "held_out"
    if trocar(["ingest", str(given.out / "pool"), "--out", str(shards), "--stills"]):
        raise SystemExit(1)
    catalog = Catalog.open(shards)
    guard = LeakConfig(against=[str(data)])
    selection = LeakSearch().resolve(Composition(curate="none", leak=guard), catalog)
    print("\n".join(note for note in selection.notes if "compared" in note or "left out" in note))
    kept = np.concatenate([pool.runs.rows(np.arange(len(pool))) for pool in selection.pools])
    names = [catalog.videos["name"][int(video)].as_py() for video in catalog.frames["video"]]
    whole, stay = Counter(map(_kind, names)), Counter(_kind(names[row]) for row in kept)
    print("\n| pictures of the pool | in it | left out |\n|---|---|---|")
    for kind in sorted(whole):
        print(f"| {kind} | {whole[kind]} | {whole[kind] - stay[kind]} |")
    between_operations(found)


def _kind(name: str) -> str:
    match = re.search(r"copies.([A-Za-z0-9_]+?)[/_.-]\d\d(?!\d)", name)
    return match[1].replace("_", " ") if match else "others"


if __name__ == "__main__":
    main()
