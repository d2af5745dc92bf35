"""Frames of a step read by several threads at once, and handed out in the order in which they are asked for.

Reading and the checksum of a frame release the interpreter, and on a network file system every frame is a round trip.
What is delivered is what one thread would have delivered: a frame that can't be used fails when its turn comes, by the
error with which it was read, and a row that no thread got to is read at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from trocar.data.loading.reader import MAX_BYTES, BadContentError, Read, Reader
from trocar.data.media.jpeg_markers import Jpeg

READERS = 8


class ReadAhead:
    """`threads` readers, the calling thread among them. Close it when it isn't needed any more.

    They read into memory that is used again for the next rows: allocating it for every frame takes as long as reading
    from the page cache.
    """

    def __init__(self, threads: int = READERS) -> None:
        self.threads = threads
        self._others = ThreadPoolExecutor(max(1, threads - 1), "trocar-reader")
        self._room = np.empty(0, np.uint8)

    def __call__(self, reader: Reader, rows: Iterable[int]) -> Read:
        """Read `rows`, in about their order; returns what to call instead of `reader.read`, for any row.

        What that returns is overwritten by the next call of this.
        """
        wanted = [row for row in dict.fromkeys(rows) if row not in reader.known_bad]
        found: dict[int, Jpeg | Exception] = {}
        left, broken = iter(list(zip(wanted, self._places(reader, wanted), strict=True))), False

        def work() -> None:
            nonlocal broken
            for row, place in left:  # shared: a row goes to one thread
                if broken:
                    return
                try:
                    found[row] = reader.read_into(row, place)
                except BadContentError as error:
                    found[row] = error
                except Exception as error:
                    # The run is about to stop: a file system that fails would fail for each of the rows behind, slowly.
                    found[row], broken = error, True

        others: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # at the end of the program there are no new threads; this one reads it all
                for _ in range(min(self.threads, len(wanted)) - 1):
                    others.append(self._others.submit(work))
            work()
        except BaseException:
            broken = True
            raise
        finally:
            for other in others:
                other.result()

        def read(row: int) -> Jpeg:
            result = found.get(row)
            if isinstance(result, Exception):
                raise result
            return reader.read(row) if result is None else result

        return read

    def close(self) -> None:
        """End the threads."""
        self._others.shutdown()

    def _places(self, reader: Reader, rows: list[int]) -> list[memoryview]:
        size = reader.catalog.frames["size"][rows].astype(np.int64)
        size[(size < 0) | (size > MAX_BYTES)] = 0  # refused before it is read
        end = np.cumsum(size)
        if end.size and end[-1] > self._room.size:
            self._room = np.empty(2 * end[-1], np.uint8)
        room = self._room.data
        return [room[a:b] for a, b in zip((end - size).tolist(), end.tolist(), strict=True)]
