"""Which arm goes through which protocol on which task, and what is told before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.experiment import Experiment, drawn
from trocar.downstream.features.baselines.base import SIZE
from trocar.downstream.features.frame_cache import Size
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols import protocols as known_protocols
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.protocols.prior import Prior
from trocar.downstream.protocols.segmentation import ConstantMask
from trocar.downstream.splits.budgets import most_draws
from trocar.errors import ConfigError


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


def check_tasks(benches: Sequence[Experiment], protocols: Sequence[Protocol], config: EvaluateConfig) -> None:
    """Raises ConfigError for a budget that cannot be, a task or protocol without a partner, or two rows of one name."""
    for bench in benches:
        for draw in range(most_draws(bench.data, config.budget, config.draws)):
            drawn(bench, config, draw)
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
    known = [get_protocol(name) for name in known_protocols()]
    return [protocol for protocol in known if fits(protocol, bench)]
