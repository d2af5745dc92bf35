"""Label-free health of a representation, and naming a collapse in words.

How fast a run is: over every step since the last log, with the waiting of host and device told apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trocar.data.loading.batch import Batch
from trocar.ssl.ranks.distributed import gather_detached, is_distributed


def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the std over samples of unit-length features [m, D], times sqrt(D).

    1 for directions spread evenly over the sphere, 0 when all samples are mapped to one point (Chen & He, "Exploring
    simple siamese representation learning", arXiv 2011.10566, section 4.1).
    """
    z = F.normalize(features.float(), dim=-1)
    return z.std(0, unbiased=False).mean() * math.sqrt(z.shape[-1])


def rankme(features: Tensor) -> Tensor:
    """RankMe (Garrido et al., arXiv 2210.02885): exp of the entropy of the normalised *singular values* of [m, D].

    Between 1 and min(m, D), and bounded by the m of the sample: compare only values from equal m.
    """
    values = torch.linalg.svdvals(features.float())
    p = values / values.sum().clamp_min(1e-12) + 1e-7
    return torch.exp(-(p * p.log()).sum())


def collapse(loss: float, entropy: float | None, uniform: float | None, progress: float) -> str | None:
    """What a flat run has collapsed to, in words, or None. `uniform` is ln K; `progress` 0..1 of the run.

    DINO starts at ln K, so the first fifth of a run isn't judged.
    """
    if uniform is None or progress < 0.2:
        return None
    if abs(loss - uniform) < 0.01 * uniform and (entropy is None or entropy > 0.98 * uniform):
        return (
            f"collapse: the loss {loss:.3f} stands at ln K = {uniform:.3f}, every output is uniform. "
            f"Usual remedies: fewer prototypes, a lower teacher temperature, a longer warm-up, "
            f"momentum nearer 0.99 on small data"
        )
    if entropy is not None and entropy < 1e-3 and loss < 1e-3:
        return (
            "collapse: loss and teacher entropy are 0, every image gets one prototype. "
            "Usual remedies: a higher teacher temperature, centre momentum 0.9, a lower learning rate"
        )
    return None


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


class OwnTime:
    """Seconds of a step that are one rank's own: from where all ranks agreed on the step before it to where it begins
    to exchange gradients. Waiting for data, checkpoints and forward passes are in it, waiting for other ranks is not.

    What ranks do together ends for all at one moment, so the others wait for the rank whose own time is longest. (Not
    where a forward pass exchanges something, features for a loss or parts of weights: that ends together, too, and
    hides the wait.) On a GPU it is the time on its stream, where a late host is a gap.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._began: Moment | None = None
        self._spans: list[tuple[Moment, Moment]] = []

    def begins(self) -> None:
        """All ranks have agreed; one rank alone has nobody to wait for it."""
        self._began = self._now() if is_distributed() else None

    def ends(self) -> None:
        """From here on ranks wait for each other. Counts only behind a beginning: the first step has none."""
        if self._began is not None:
            self._spans.append((self._began, self._now()))
            self._began = None

    def slowest(self) -> dict[str, float]:
        """Of the steps since this was last asked: which rank took longest, its mean and the median rank's, in seconds.

        Nothing where there is one rank, and before a step was measured; asked by all ranks together.
        """
        if not self._spans:
            return {}
        seconds = sum(_seconds(began, ended) for began, ended in self._spans) / len(self._spans)
        self._spans.clear()
        ranks = gather_detached(torch.tensor([seconds], dtype=torch.float64, device=self._device))
        return {
            "slowest_rank": float(ranks.argmax()),
            "slowest_rank_s": float(ranks.max()),
            "median_rank_s": float(ranks.median()),
        }

    def _now(self) -> Moment:
        if self._device.type != "cuda":
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


Moment = float | torch.cuda.Event


def _seconds(began: Moment, ended: Moment) -> float:
    if isinstance(began, torch.cuda.Event):
        assert isinstance(ended, torch.cuda.Event)
        return float(began.elapsed_time(ended)) / 1000
    assert not isinstance(ended, torch.cuda.Event)
    return ended - began


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most that torch had allocated on a GPU since the run began, in MiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {"peak_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20}
