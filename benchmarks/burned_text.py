"""Hits and false alarms of the hint at burned-in text, on real frames and on text drawn into them.

    python benchmarks/burned_text.py ../shared/data

Real text: the 16 laparoscopies of `intermountain_stanford`, as ingest stores them; which of them show text is known by
eye (WITHOUT). False alarms: the videos of `cholect50_val` and `cholec80_clips`, which have none. Drawn text: a name in
each of these videos, per size (pixels at 480 lines), place and style, in frames as they would be stored.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.burned_text import TextWatch
from trocar.data.ingest.options import IngestOptions
from trocar.data.ingest.run import run_ingest
from trocar.data.media.still import open_jpeg

WITHOUT = {"00006-23107", "00024-25642"}
"""No text in the stored frames: none was recorded, or it lies outside of the content box."""
NAME, HOSPITAL = "MUELLER, ANNA 03.05.1961", "St. Mary's Hospital OR 4"
SIZES = (6, 8, 10, 14, 20)
PLACES = {"top left": (0.2, 0.06), "bottom": (0.35, 0.9), "middle": (0.3, 0.5)}
STYLES = {"white": ((255, 255, 255), None), "green": ((60, 255, 60), None), "white on black": ((255,) * 3, (0, 0, 0))}


def main(arguments: Sequence[str]) -> int:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with intermountain_stanford, cholect50_val, cholec80_clips")
    data: Path = parser.parse_args(arguments).data
    real(data / "intermountain_stanford" / "images")
    videos = dict(plain(data))
    seen = {name: looked_at(frames) for name, frames in videos.items()}
    alarms = [name for name, (found, _) in seen.items() if found]
    seconds = sum(cost for _, cost in seen.values()) / len(videos)
    print(f"false alarms: {len(alarms)} of {len(videos)} videos without text {alarms or ''}")
    print(f"processor time: {1000 * seconds:.1f} ms a video, of 16 stored frames")
    drawn(videos)
    return 0


def real(folder: Path) -> None:
    """Ingest the laparoscopies as folders of frames and compare with what is known of them."""
    with tempfile.TemporaryDirectory() as scratch:
        frames = defaultdict(list)
        for path in folder.glob("*.jpg"):
            frames[path.name.partition("-frame")[0]].append(path)
        for name, paths in frames.items():
            (Path(scratch) / "in" / name).mkdir(parents=True)
            for number, path in enumerate(sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2]))):
                (Path(scratch) / "in" / name / f"{number}.jpg").symlink_to(path.resolve())
        pattern = {"frames": "{number}.jpg", "frames_fps": 1.0, "first_number": 0}
        options = {"sources": (Path(scratch) / "in",), "out": Path(scratch) / "out", **pattern}
        run_ingest(IngestOptions.model_validate(options), lambda _: None, lambda *_: None)
        rows = Catalog.open(Path(scratch) / "out").videos.to_pylist()
    hits = [row["name"] for row in rows if row["text"] and row["name"] not in WITHOUT]
    wrong = [row["name"] for row in rows if row["text"] and row["name"] in WITHOUT]
    print(
        f"real text: {len(hits)} of {len(rows) - len(WITHOUT)} videos with text hinted at, {len(wrong)} of the others"
    )


def plain(data: Path) -> Iterator[tuple[str, list[Image.Image]]]:
    """Videos without text: 16 frames of each, as recorded."""
    for folder in sorted((data / "cholect50_val" / "videos").iterdir()):
        paths = sorted(folder.glob("*.jpg"))
        yield folder.name, [open_jpeg(path.read_bytes()) for path in paths[:: -(-len(paths) // 16)]]
    for path in sorted((data / "cholec80_clips" / "clips").glob("*.mp4")):
        with av.open(str(path)) as container:
            yield path.stem, [frame.to_image() for frame in itertools.islice(container.decode(video=0), 0, None, 50)]


def looked_at(frames: Sequence[Image.Image]) -> tuple[bool, float]:
    """Whether text is hinted at in these frames, stored with a short side of 256 pixels, and processor seconds."""
    watch, seconds = TextWatch(), 0.0
    for frame in frames:
        scale = 256 / min(frame.size)
        small = frame.resize((round(frame.width * scale), round(frame.height * scale)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90, subsampling="4:2:0")
        stored = open_jpeg(buffer.getvalue())
        began = time.process_time()
        watch.add(stored)
        seconds += time.process_time() - began
    began = time.process_time()
    found = watch.boxes((0, 0, *frames[0].size))
    return bool(found), seconds + time.process_time() - began


def drawn(videos: dict[str, list[Image.Image]]) -> None:
    """Hits by size and style, over all videos and places."""
    print(f"drawn text hinted at, of {len(videos) * len(PLACES)} (videos x places), by size at 480 lines and style")
    print("size  " + "  ".join(f"{style:>14}" for style in STYLES))
    for size in SIZES:
        counts = []
        for colour, ground in STYLES.values():
            texts = [
                [written(frame, size, place, colour, ground) for frame in frames]
                for frames in videos.values()
                for place in PLACES.values()
            ]
            counts.append(sum(looked_at(frames)[0] for frames in texts))
        print(f"{size:4}  " + "  ".join(f"{count:14}" for count in counts))


def written(
    frame: Image.Image,
    size: int,
    place: tuple[float, float],
    colour: tuple[int, int, int],
    ground: tuple[int, int, int] | None,
) -> Image.Image:
    """The frame with a name and a hospital in it."""
    image = frame.copy()
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size * frame.height / 480)
    where = place[0] * frame.width, place[1] * frame.height
    text = f"{NAME}\n{HOSPITAL}"
    if ground is not None:
        draw.rectangle(draw.multiline_textbbox(where, text, font=font), fill=ground)
    draw.multiline_text(where, text, fill=colour, font=font)
    return image


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
