"""A probe as the trainer knows it, its curve, and who watches: scores of the exported network while it trains.

What a probe looks at and how it scores is handed in. Looking changes nothing of the training: not the weights, buffers
and modes of the networks, and no random state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trocar.backbones.device import Precision, autocast
from trocar.backbones.preprocess import Preprocessing
from trocar.backbones.source import WEIGHTS
from trocar.core.messages import Say
from trocar.ssl.blocks.networks import eagerly
from trocar.ssl.ranks.distributed import World, broadcast_, gather_detached

LEVEL = 95.0
"""Per cent of the draws that an interval holds."""


@dataclass(frozen=True)
class Spread:
    """How the work of a look is divided: this rank's number of how many, and what brings parts together.

    `gather` takes a tensor [m, ...] of equal shape from every rank and returns [size, m, ...], on every rank.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Tensor], Tensor] = lambda x: x[None]


class ProbeScore(Protocol):
    """A score, and how it varies over the scored cases."""

    @property
    def value(self) -> float:
        """The headline metric; NaN where it is undefined."""
        ...

    @property
    def draws(self) -> Tensor:
        """float64[D] of it over draws of the cases, the same draws at every look; D is 0 for fewer than three cases."""
        ...


class Probe(Protocol):
    """Scores a frozen network on a small labelled set."""

    @property
    def name(self) -> str:
        """What metrics call it."""
        ...

    @property
    def about(self) -> str:
        """For people: what is scored on how many frames of which cases."""
        ...

    @property
    def identity(self) -> str:
        """Equal for probes whose scores can be compared."""
        ...

    @property
    def draws(self) -> int:
        """How many draws a score has."""
        ...

    def score(self, network: nn.Module, shape: Preprocessing, spread: Spread) -> ProbeScore | None:
        """Of a network in eval mode, with pooled output [n, D] of normalised pictures; called on every rank at once.

        The score is rank 0's; others may return None. Raises ConfigError for a network that it cannot score.
        """
        ...


class Point(NamedTuple):
    """The score after `done` steps, and the 95 % interval of the difference to the curve's first point, over the same
    draws of cases; None for that point itself, and for fewer than three cases.
    """

    done: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class ProbeCurve:
    """All looks of a probe so far; `start` and `last` float64[D] are the draws of the first and the last one."""

    identity: str
    start: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    last: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    points: list[Point] = field(default_factory=list)

    def add(self, done: int, value: float, draws: Tensor) -> Point:
        """The next point."""
        self.last = draws
        if not self.points:
            self.start = draws
            self.points.append(Point(done, value))
        else:
            self.points.append(Point(done, value, *paired_interval(draws, self.start)))
        return self.points[-1]

    @property
    def best(self) -> Point | None:
        """The first of those with the highest value; None where no value is defined."""
        defined = [point for point in self.points if not np.isnan(point.value)]
        return max(defined, key=lambda point: point.value, default=None)

    @property
    def since_best(self) -> int:
        """How many looks in a row were no better than the best before them."""
        best = self.best
        return sum(best is None or point.done > best.done for point in self.points)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; `of` is the inverse."""
        points = [list(point) for point in self.points]
        return {"identity": self.identity, "start": self.start, "last": self.last, "points": points}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> ProbeCurve:
        """From what `state` gave."""
        return cls(state["identity"], state["start"], state["last"], [Point(*point) for point in state["points"]])


def paired_interval(now: Tensor, start: Tensor) -> tuple[float | None, float | None]:
    """The percentile interval of now - start, draw by draw of the same cases; None where no draw is defined."""
    difference = (now - start).numpy()
    defined = difference[~np.isnan(difference)]
    if len(defined) == 0:
        return None, None
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class WatchedProbe:
    """A probe and when it looks: `is_due(done)` is a function of the configuration."""

    probe: Probe
    is_due: Callable[[int], bool]


@dataclass
class Watch:
    """Looks where probes are due, keeps their curves and the best weights, and says when patience is at its end.

    `chooser` names the probe whose best weights are kept (None: none are); `patience` is how many of its looks in a
    row may be no better before the run ends. `best_weights`, on rank 0: the exported network's at its best look.
    """

    probes: Sequence[WatchedProbe]
    shape: Preprocessing
    precision: Precision
    world: World
    say: Say
    chooser: str | None = None
    patience: int | None = None
    curves: dict[str, ProbeCurve] = field(init=False)
    best_weights: Mapping[str, Tensor] | None = field(default=None, init=False)
    seconds: float = field(default=0.0, init=False)
    _warned: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.curves = {one.probe.name: ProbeCurve(one.probe.identity) for one in self.probes}

    def look(self, done: int, network: nn.Module) -> dict[str, float]:
        """Score `network` with every probe that is due after `done` steps, or has not looked yet; what is logged.

        Every rank has to call it at the same step, and has the same values afterwards.
        """
        values: dict[str, float] = {}
        began = time.perf_counter()
        for one in self.probes:
            curve = self.curves[one.probe.name]
            if curve.points and (curve.points[-1].done >= done or not one.is_due(done)):
                continue
            point = curve.add(done, *self._score(one.probe, network))
            values |= _logged(one.probe.name, point, curve.points[0])
            self._tell(one.probe.name, point, curve.points[0])
        if values:
            self.seconds += time.perf_counter() - began
        return values

    @property
    def best(self) -> Point | None:
        """The choosing probe's best look; None where nothing is chosen."""
        return None if self.chooser is None else self.curves[self.chooser].best

    @property
    def ended(self) -> bool:
        """Whether the choosing probe has been patient for long enough: the same on every rank, after any resume."""
        if self.chooser is None or self.patience is None:
            return False
        return self.curves[self.chooser].since_best >= self.patience

    def state(self) -> dict[str, Any]:
        """The curves, for a checkpoint; the best weights are a folder beside it."""
        return {name: curve.state() for name, curve in self.curves.items()}

    def restore(self, state: Mapping[str, Any] | None, best: Path) -> None:
        """Go on with the curves of a checkpoint, and with the weights in the folder `best`.

        A probe that is not in it, or that scores something else now, begins its curve here.
        """
        for name, curve in self.curves.items():
            kept = (state or {}).get(name)
            if kept is None or kept["identity"] != curve.identity:
                self.say(f"probe {name} is not the checkpoint's: its curve begins here")
                continue
            self.curves[name] = ProbeCurve.of(kept)
        if self.world.is_main and self.best is not None:
            self.best_weights = load_file(best / WEIGHTS)

    def _score(self, probe: Probe, network: nn.Module) -> tuple[float, Tensor]:
        device = next(network.parameters()).device
        spread = Spread(self.world.rank, self.world.size, self._gather)
        with undisturbed(network, device), autocast(device, self.precision):
            found = probe.score(network, self.shape, spread)
        box = torch.full((1 + probe.draws,), torch.nan, dtype=torch.float64, device=device)
        if found is not None and self.world.is_main:
            box = torch.cat([torch.tensor([found.value], dtype=torch.float64), found.draws]).to(device)
        broadcast_(box)  # one rank's numbers, so that all ranks choose and end alike
        return float(box[0]), box[1:].cpu().clone()

    def _gather(self, part: Tensor) -> Tensor:
        return gather_detached(part).view(self.world.size, *part.shape)

    def _tell(self, name: str, point: Point, first: Point) -> None:
        gain = "" if point.low is None else f" [{point.low:+.3f}, {point.high:+.3f}]"
        change = "" if point is first else f", {point.value - first.value:+.3f}{gain} to step {first.done}"
        self.say(f"probe {name} after {point.done} steps: {point.value:.3f}{change}")
        if point.high is not None and point.high < 0 and name not in self._warned:
            self._warned.add(name)
            self.say(
                f"warning: probe {name}: the paired interval over cases of the difference to step {first.done} lies "
                f"below 0{gain}: these features are worse than those that the run began with. Usual remedies: a lower "
                f"optim.lr, fewer steps, keep: best"
            )


def _logged(name: str, point: Point, first: Point) -> dict[str, float]:
    values = {f"probe/{name}": point.value}
    if point.low is not None and point.high is not None:
        gain = {"gain": point.value - first.value, "gain_low": point.low, "gain_high": point.high}
        values |= {f"probe/{name}/{key}": value for key, value in gain.items()}
    return values


@contextmanager
def undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within, the network is in eval mode, without gradients and as it was written; then everything is as it was:
    every module's mode, and torch's random state.
    """
    modes = [(module, module.training) for module in network.modules()]
    devices = [device] if device.type == "cuda" else []
    network.eval()
    try:
        with torch.no_grad(), eagerly(network), torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
