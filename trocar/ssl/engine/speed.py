"""How fast a run is: over every step since the last log, with the waiting of host and device told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch

from trocar.data.loading.batch import Batch


class Speed:
    """Counts the images of one rank's steps and the time that it stood without data.

    An interval reaches from the end of one log to the next: checkpoints are in it, the health that a log measures is
    not. A single step would not do. Steps take different times, and on a GPU the host runs ahead of its device.
    """

    def __init__(self, ranks: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ranks, self._clock = ranks, clock
        self.restart()

    def restart(self) -> None:
        """A new interval begins now."""
        self._began, self._images, self._host_s = self._clock(), 0, 0.0
        self._handed: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, each counted when it is handed out."""
        source = iter(batches)
        while True:
            asked = self._clock()
            batch = next(source, None)
            if batch is None:
                return
            self._host_s += self._clock() - asked
            self._images += len(batch.rows) * self._ranks
            if batch.handed is not None:
                self._handed.append(batch.handed)
            yield batch

    def values(self) -> dict[str, float]:
        """Of the interval up to now: images per second over all ranks, and the shares of this rank's time in which the
        host waited for a batch (`data_wait`) and the device's stream for its views (`device_wait`, on a GPU alone).

        To be asked when the device is done with what the last step queued, as it is behind its `agree`.
        """
        took = max(self._clock() - self._began, 1e-9)
        found = {"images_per_s": self._images / took, "data_wait": self._host_s / took}
        if self._handed:
            stood_ms = sum(asked.elapsed_time(given) for asked, given in self._handed)
            found["device_wait"] = stood_ms / 1000 / took
        return found


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most that torch had allocated on a GPU since the run began, in MiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {"peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
