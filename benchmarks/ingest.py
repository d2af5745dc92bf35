"""Speed of ingest against the ffmpeg command line and a bare decode of the same videos, and whether the frames agree.

    python benchmarks/ingest.py VIDEO_FOLDER [--fps 1] [--repeats 3] [--workers 1]

Ratios are of medians: above 1, ingest is faster. Those of processor time hardly depend on other load on the machine.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from trocar.bench.ingest import compare_frames, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    trials = measure(args.folder, args.fps, args.repeats, args.workers, print)
    for unit in ("seconds", "cpu_seconds"):
        median = {
            name: statistics.median(trial[unit] for trial in trials if trial["contender"] == name)
            for name in ("trocar", "ffmpeg", "decode")
        }
        ratios = ", ".join(f"{median[name] / median['trocar']:.2f} x {name}" for name in ("ffmpeg", "decode"))
        print(f"{unit}: trocar {median['trocar']:.2f}, ffmpeg {median['ffmpeg']:.2f}, decode {median['decode']:.2f}")
        print(f"    trocar's speed: {ratios}")
    for found in compare_frames(args.folder, args.fps, args.workers):
        print(found, "same frames" if found.same else "NOT THE SAME FRAMES")


if __name__ == "__main__":
    main()
