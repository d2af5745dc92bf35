"""What stands in the rows of the comparison: the backbones that were asked for, and their baselines.

Which arm goes through which protocol on which task, and what is told before anything is decoded.

Baselines that need no network: what a backbone must beat.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from trocar.backbones import own_module
from trocar.backbones.load import load_backbone, outline, random_like
from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.source import MODULE, RANDOM, TIMM, resolve
from trocar.core.registry import Registry
from trocar.downstream.evaluation.experiment import Experiment
from trocar.downstream.features.feature_cache import Features, architecture_of
from trocar.downstream.features.frame_cache import FrameCache, Size
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import PROTOCOLS, Protocol
from trocar.downstream.protocols.probes import Prior
from trocar.downstream.protocols.segmentation import ConstantMask
from trocar.errors import ConfigError, nearest

Baseline = Callable[[FrameCache], Features]
"""baseline(frames) -> float32 [n, D] for all frames of the data set, in the order of its table."""

BASELINES: Registry[Baseline] = Registry(
    "baselines", "baseline", accepts=callable, expected="a function of a FrameCache that returns features"
)
"""Every baseline that has features, by name: all protocols take them like a backbone's."""

SIZE = 32
"""Pixels on a side of the frames that baselines look at."""


def mean_colour(frames: FrameCache) -> Features:
    """Mean and standard deviation of R, G and B over the frame: float32 [n, 6] in 0..1."""
    pixels = frames.get(SIZE).astype(np.float32) / 255
    return np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1)


BASELINES.register(mean_colour, "mean colour")


def raw_pixels(frames: FrameCache) -> Features:
    """32 x 32 RGB, flattened: float32 [n, 3072] in 0..1."""
    pixels = frames.get(SIZE)
    flat: Features = pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
    return flat


BASELINES.register(raw_pixels, "raw pixels")


def time_in_video(frames: FrameCache) -> Features:
    """t, its share f of the video's last labelled time, f^2, f^3 and log(1 + t): float32 [n, 5], t in
    seconds.

    The share needs the end of the video, which no online method has.
    """
    table = frames.data.frames
    seconds = table["time_s"].to_numpy(np.float32)
    last = table.groupby("video")["time_s"].transform("max").to_numpy(np.float32)
    share = np.divide(seconds, last, out=np.zeros_like(seconds), where=last > 0)
    return np.stack([seconds, share, share**2, share**3, np.log1p(seconds)], axis=1).astype(np.float32)


BASELINES.register(time_in_video, "time")


Kind = Literal["backbone", "random", "baseline", "majority"]


@dataclass(frozen=True)
class Replicate:
    """One seed of an arm: how to make its model and the input size in pixels; no model for plain
    baselines.
    """

    name: str
    model: Callable[[], nn.Module] | None = None
    size: int = 0


@dataclass(frozen=True)
class Contender:
    """One row of the table. Its members are seeds of the same thing and are averaged."""

    label: str
    kind: Kind
    members: tuple[Replicate, ...]


def own_contender(label: str, seeds: Sequence[nn.Module], size: int | None) -> Contender:
    """A row of modules that no name stands for, for input of `size` pixels (None: what each says it takes).

    Each is copied, now and for every use. It has no row of random weights: what would draw those is not known.
    """
    members = []
    for number, seed in enumerate(seeds):
        model = own_module.adopt(seed)
        name = own_module.name_of(seed) + (f" #{number}" if len(seeds) > 1 else "")
        members.append(Replicate(name, partial(copy.deepcopy, model), size or describe_backbone(model).size[0]))
    return Contender(label, "backbone", tuple(members))


def expand(
    backbones: Sequence[str],
    baselines: Sequence[str],
    seeds: int,
    size: int | None,
    own: Sequence[Contender] = (),
) -> list[Contender]:
    """The arms of an evaluation: given backbones in order, `own` ones, random weights of the same architectures,
    baselines. `seeds` draws of random weights; input of `size` pixels (None: what each was trained with).

    Raises ConfigError for a name that means nothing, or a label that is used twice.
    """
    _check_baselines(baselines)
    arms = [*(_given(text, seeds, size) for text in backbones), *own]
    _check_labels(arms)
    if "random" in baselines:
        arms += _random_weights(arms, seeds, size)
    for name in baselines:
        if name in BASELINES:
            arms.append(Contender(name, "baseline", (Replicate(name),)))
    if "majority" in baselines:
        arms.append(Contender("majority", "majority", (Replicate("majority"),)))
    _check_labels(arms)
    return arms


def _check_labels(arms: list[Contender]) -> None:
    labels = [arm.label for arm in arms]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two backbones are called {label!r}; name them: --backbone LABEL=PATH")


def _given(text: str, seeds: int, size: int | None) -> Contender:
    label, equals, paths = text.partition("=")
    names = [name for name in (paths if equals else text).split(",") if name]
    if not names:
        raise ConfigError(f"--backbone {text!r}: expected PATH, NAME or LABEL=PATH,PATH")
    label = label if equals else _short(text)
    if len(names) == 1 and resolve(names[0]).kind == "random":
        return _random_arm(label, names[0], seeds, size)
    return Contender(label, "backbone", tuple(_member(name, size) for name in names))


def _member(name: str, size: int | None) -> Replicate:
    make = partial(load_backbone, name)
    return Replicate(name, make, size or describe_backbone(make()).size[0])


def _random_arm(label: str, name: str, seeds: int, size: int | None) -> Contender:
    side = size or describe_backbone(outline(name)).size[0]
    members = [Replicate(f"seed {seed}", partial(random_like, name, seed=seed), side) for seed in range(seeds)]
    return Contender(label, "random", tuple(members))


def _random_weights(given: list[Contender], seeds: int, size: int | None) -> list[Contender]:
    """One arm per architecture, preprocessing and size among the given backbones that are not random
    themselves.
    """
    arms: dict[str, Contender] = {}
    for arm in given:
        first = arm.members[0]
        if arm.kind != "backbone" or resolve(first.name).architecture.startswith(MODULE):
            continue  # what would draw the weights of somebody's own class is not known
        model = outline(first.name)
        shapes = [(name, tensor.shape) for name, tensor in model.state_dict().items()]
        key = repr((architecture_of(model), describe_backbone(model), shapes, first.size))
        architecture = str(dict(getattr(model, "pretrained_cfg", {})).get("architecture", "network"))
        arms.setdefault(key, _random_arm(f"random {architecture}", first.name, seeds, size))
    labels = [arm.label for arm in arms.values()]
    repeated = {label for label in labels if labels.count(label) > 1}
    return [
        Contender(
            f"{arm.label} {arm.members[0].size} px #{i}" if arm.label in repeated else arm.label, arm.kind, arm.members
        )
        for i, arm in enumerate(arms.values(), start=1)
    ]


def _short(text: str) -> str:
    is_folder = not text.startswith((RANDOM, TIMM)) and Path(text).is_dir()
    return Path(text).resolve().name if is_folder else text


def _check_baselines(names: Sequence[str]) -> None:
    allowed = ["random", *BASELINES.names(), "majority"]
    for name in names:
        if name not in allowed:
            raise ConfigError(f"no baseline {name!r}{nearest(name, allowed)}; baselines: {', '.join(allowed)}")


def fits(protocol: Protocol, bench: Experiment) -> bool:
    """Whether the protocol can learn the bench's labels, all of its tasks together."""
    return all(kind in protocol.kinds for kind in bench.kinds) and (len(bench.tasks) == 1 or protocol.joins_tasks)


def usable(arm: Contender, protocols: Sequence[Protocol], bench: Experiment) -> list[Protocol]:
    """The protocols an arm goes through: one without a network only through those that need none."""
    if arm.kind == "majority":
        constant: Protocol = ConstantMask() if "mask" in bench.kinds else Prior()
        return [constant] if len(bench.tasks) == 1 else []
    return [p for p in protocols if fits(p, bench) and not (p.trains_network and arm.kind == "baseline")]


def label_on(bench: Experiment, protocol: Protocol) -> str:
    """What a table calls the protocol there: with the tasks, where several are learned together."""
    return protocol.label + (f", {bench.name}" if len(bench.tasks) > 1 else "")


def sizes(arms: Sequence[Contender], benches: Sequence[Experiment], protocols: Sequence[Protocol]) -> set[Size]:
    """All sizes in pixels that frames are needed at, so that every file is decoded once."""
    found: set[Size] = {SIZE} if any(arm.kind == "baseline" for arm in arms) else set()
    for arm in arms:
        chosen = [protocol for bench in benches for protocol in usable(arm, protocols, bench)]
        found |= {p.input_size(member.size) for p in chosen for member in arm.members if member.size}
    return found


def check_tasks(benches: Sequence[Experiment], protocols: Sequence[Protocol]) -> None:
    """Raises ConfigError for a budget that cannot be, a task or protocol without a partner, or two rows of one name."""
    for bench in benches:
        for draw in range(bench.draws):
            bench.drawn(draw)
        if not any(fits(protocol, bench) for protocol in protocols):
            asked, fitting = (", ".join(p.name for p in some) or "none" for some in (protocols, _fitting(bench)))
            kinds = " and ".join(dict.fromkeys(bench.kinds))
            raise ConfigError(
                f"task {bench.name!r} ({kinds} labels) cannot be learned by {asked}; those that can: {fitting}"
            )
    for protocol in protocols:
        if not any(fits(protocol, bench) for bench in benches):
            raise ConfigError(f"protocol {protocol.name!r} can learn none of {', '.join(b.name for b in benches)}")
    _check_names(benches, protocols)


def check_arms(arms: Sequence[Contender], benches: Sequence[Experiment], protocols: Sequence[Protocol]) -> None:
    """Raises ConfigError where there is no arm at all, or none that a task could be learned with."""
    if not arms:
        raise ConfigError("nothing to evaluate: give --backbone, or baselines")
    for bench in benches:
        if not any(usable(arm, protocols, bench) for arm in arms):
            raise ConfigError(
                f"task {bench.name!r}: nothing to evaluate: {', '.join(arm.label for arm in arms)} cannot go through "
                f"{', '.join(p.name for p in protocols if fits(p, bench))}; give --backbone"
            )


def _check_names(benches: Sequence[Experiment], protocols: Sequence[Protocol]) -> None:
    pairs = [(bench, protocol) for bench in benches for protocol in protocols if fits(protocol, bench)]
    rows = Counter((task.name, label_on(bench, protocol)) for bench, protocol in pairs for task in bench.tasks)
    for (task, label), count in rows.items():
        if count > 1:
            raise ConfigError(
                f"task {task!r} would have {count} rows that are called {label!r}; leave out what is there twice, or "
                f"tell protocols apart: protocol=[..., {{name: ..., title: ...}}]"
            )


def _fitting(bench: Experiment) -> list[Protocol]:
    known = [get_protocol(name) for name in PROTOCOLS.names()]
    return [protocol for protocol in known if fits(protocol, bench)]
