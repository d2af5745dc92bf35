"""Speed of ingest against a bare decode of the same videos on one thread.

    python benchmarks/ingest.py VIDEO_FOLDER

Prints both in times real time of one core (processor time, so other load on the machine does not count).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import av

from trocar.data.ingest.run import IngestOptions, run_ingest
from trocar.data.ingest.settings import IngestSettings
from trocar.data.ingest.sources import find


def bare_decode(paths: list[Path]) -> float:
    """Seconds of processor time to decode every frame and do nothing with it."""
    started = time.process_time()
    for path in paths:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for _ in container.decode(video=0):
                pass
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fps", type=float, default=1.0)
    args = parser.parse_args()
    decode = bare_decode([item.path for item in find([args.folder], None)])
    with tempfile.TemporaryDirectory() as out:
        settings = IngestSettings(fps=args.fps)
        started = time.process_time()
        options = IngestOptions(sources=(args.folder,), out=Path(out), settings=settings)
        summary = run_ingest(options, lambda line: None, lambda *_: None)
        ingest = time.process_time() - started
    seconds = summary.seconds
    print(f"{summary.videos} videos, {seconds:.0f} s, {summary.frames} frames at {args.fps} fps")
    print(
        f"bare decode {seconds / decode:.1f} x real time, ingest {seconds / ingest:.1f} x, ratio {decode / ingest:.2f}"
    )


if __name__ == "__main__":
    main()
