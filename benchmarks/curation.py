"""How often the quality verdicts are wrong: miss rate and false-alarm rate per verdict, on frames with known truth.

    python benchmarks/curation.py --intermountain DIR --cholect50 DIR --phantom DIR

The blur threshold was chosen on the `choose` half of the videos (every second one by name): look at `report` for it.
The other thresholds lie in wide gaps and were set with both halves in view.
Blur has no truth in the data: real in-body frames are blurred by a Gaussian of 2.5 or 4 pixels at 256 pixels height.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from phantom_split import described
from PIL import Image, ImageFilter

from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD, REVIEW_THRESHOLD
from trocar.data.ingest.framing import encode, find_content, target_size
from trocar.data.ingest.quality import BLURRED_SHARPNESS, NEAR_DUPLICATE_BITS, measure, quality_table
from trocar.data.media.still import open_jpeg, read_still

Truth = tuple[str, str, str, bool, bool]  # data set, half, verdict, is it so, was it said


def half(index: int) -> str:
    """Videos in alphabetical order, in turn."""
    return "choose" if index % 2 == 0 else "report"


def stored(images: list[Image.Image]) -> list[Image.Image]:
    """Images of one video as ingest would store them: content box, 256 pixels, JPEG."""
    box = find_content(images[:: max(1, len(images) // 16)]).box
    found = []
    for image in images:
        left, top, width, height = box or (0, 0, *image.size)
        size = target_size(width, height, 256, 1)
        resized = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        found.append(open_jpeg(encode(resized, 90)))
    return found


def judge(images: list[Image.Image]) -> dict[str, np.ndarray]:
    table = quality_table([measure(image) for image in images])
    verdicts = {name: np.array(table[name]) for name in ("black", "uniform", "blurred", "near_duplicate")}
    score = np.array(table["out_of_body"])
    return verdicts | {"out_of_body": score >= OUT_OF_BODY_THRESHOLD, "doubtful": score >= REVIEW_THRESHOLD}


def intermountain(root: Path) -> Iterator[Truth]:
    """Frames tagged by eye; `blank` must be black, menu screens and noise out of the body, all else neither."""
    videos: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader((root / "frames.csv").open()):
        videos[row["video"]].append(row)
    for index, (_, rows) in enumerate(sorted(videos.items())):
        images = stored([read_still(root / "images" / row["file"]) for row in rows])
        said = judge(images)
        for i, row in enumerate(rows):
            tag = row["tag_by_eye"]
            name = "intermountain" + (" (corrupt colour)" if "corrupt" in tag else "")
            yield name, half(index), "black", tag == "blank", bool(said["black"][i])
            if tag != "blank":
                out = tag in ("ui_screen", "noise")
                yield name, half(index), "out_of_body", out, bool(said["out_of_body"][i])
                yield name, half(index), "out_of_body or to review", out, bool(said["doubtful"][i])
            if tag.startswith("in_body"):
                yield name, half(index), "uniform", False, bool(said["uniform"][i])
        yield from blur(
            "intermountain", index, [im for im, row in zip(images, rows, strict=True) if row["tag_by_eye"] == "in_body"]
        )


def cholect50(root: Path, every: int) -> Iterator[Truth]:
    """All frames are in the body and none is black: only false alarms can be counted."""
    for index, folder in enumerate(sorted((root / "videos").iterdir())):
        images = stored([read_still(path) for path in sorted(folder.glob("*.jpg"))[::every]])
        said = judge(images)
        names = {"out_of_body": "out_of_body", "doubtful": "out_of_body or to review"}
        for verdict in ("black", "uniform", *names):
            for value in said[verdict]:
                yield "cholect50", half(index), names.get(verdict, verdict), False, bool(value)
        yield from blur("cholect50", index, images[::2])


def blur(name: str, index: int, images: list[Image.Image]) -> Iterator[Truth]:
    for radius in (0.0, 2.5, 4.0):
        for image in images:
            shown = image.filter(ImageFilter.GaussianBlur(radius)) if radius else image
            label = f"blurred ({radius} px)" if radius else "blurred (as recorded)"
            yield name, half(index), label, radius > 0, bool(judge([shown])["blurred"][0])


def phantom(root: Path, limit: int) -> Iterator[Truth]:
    """Planted black, out-of-body, frozen and twice filmed frames, judged at the native rate."""
    truth: dict[str, dict[int, str]] = defaultdict(dict)
    for row in csv.DictReader((root / "planted.csv").open()):
        truth[row["video"]][int(row["frame"])] = row["kind"]
    for index, path in enumerate(sorted((root / "videos").glob("*.mp4"))[:limit]):
        with av.open(str(path)) as container:
            images = stored([frame.to_image() for frame in container.decode(video=0)])
        said, kinds = judge(images), truth[path.stem]
        for i in range(len(images)):
            kind = kinds.get(i, "")
            yield "phantom", half(index), "black", kind == "black", bool(said["black"][i])
            if kind != "black":
                yield "phantom", half(index), "out_of_body", kind == "out_of_body", bool(said["out_of_body"][i])
                review = bool(said["doubtful"][i])
                yield "phantom", half(index), "out_of_body or to review", kind == "out_of_body", review
            if kind in ("", "duplicate"):
                name = "near_duplicate (at its own rate)"
                yield "phantom", half(index), name, kind == "duplicate", bool(said["near_duplicate"][i])
            if kind in ("", "near_duplicate"):
                name = "near_duplicate (the same scene filmed again)"
                yield "phantom", half(index), name, kind == "near_duplicate", bool(said["near_duplicate"][i])
            if not kind:
                yield "phantom", half(index), "blurred (as recorded)", False, bool(said["blurred"][i])


def table(found: list[Truth]) -> str:
    """Markdown: frames, misses and false alarms per data set, verdict and half."""
    cells: dict[tuple[str, str, str], list[tuple[bool, bool]]] = defaultdict(list)
    for name, part, verdict, so, said in found:
        cells[verdict, name, part].append((so, said))
    lines = ["| verdict | data | half | so | missed | not so | false alarms |", "|---|---|---|---|---|---|---|"]
    for (verdict, name, part), pairs in sorted(cells.items()):
        so, said = np.array(pairs).T
        missed, false = np.count_nonzero(so & ~said), np.count_nonzero(~so & said)
        yes, no = np.count_nonzero(so), np.count_nonzero(~so)
        rates = [f"{n} ({100 * n / total:.1f} %)" if total else "-" for n, total in ((missed, yes), (false, no))]
        lines.append(f"| {verdict} | {name} | {part} | {yes} | {rates[0]} | {no} | {rates[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--intermountain", type=Path)
    parser.add_argument("--cholect50", type=Path)
    parser.add_argument("--phantom", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th frame of cholect50")
    parser.add_argument("--videos", type=int, default=8, help="videos of the phantom")
    args = parser.parse_args()
    found: list[Truth] = []
    if args.intermountain:
        found += intermountain(args.intermountain)
    if args.cholect50:
        found += cholect50(args.cholect50, args.every)
    if args.phantom:
        print(described(args.phantom))
        found += phantom(args.phantom, args.videos)
    limits = f"out of body from {OUT_OF_BODY_THRESHOLD}, to review from {REVIEW_THRESHOLD}"
    limits += f", blurred below {BLURRED_SHARPNESS} sharpness"
    print(f"{limits}, near duplicate up to {NEAR_DUPLICATE_BITS} of 256 bits\n")
    print(table(found))


if __name__ == "__main__":
    main()
