"""Decode every frame of some videos and do nothing with it: what ingest cannot be faster than by decoding all.

python -m trocar.diagnostics.bench.bare_decode WORKERS THREADS VIDEO [VIDEO ...]
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import av


def decode(path: str, threads: int) -> int:
    """The number of frames in a video."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        return sum(1 for _ in container.decode(stream))


def main(arguments: list[str]) -> int:
    """Decoding lets go of the interpreter's lock, so threads are as good as processes here."""
    workers, threads, *paths = arguments
    with ThreadPoolExecutor(int(workers)) as pool:
        list(pool.map(lambda path: decode(path, int(threads)), paths))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
